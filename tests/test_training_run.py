"""helpers.training.run: a training that is stopped in any way goes on as if nothing had happened."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from helpers import training
from helpers.training import Run, TrainingConfig, TrainingResult, train

IMAGES = torch.randn(13, 3, 4, 4, generator=torch.Generator().manual_seed(0))  # 13 is no multiple of any batch


def loss(model: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
    return (model(x + torch.randn(x.shape, generator=generator)) - x).square().mean()


def network(width: int = 8) -> nn.Module:
    """Convolutions for the memory layout, batch normalisation for its buffers, dropout for its random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.SiLU(), nn.Dropout(0.2), nn.Conv2d(width, 3, 1)
        )


def config(**changes: object) -> TrainingConfig:
    return TrainingConfig(**{"n_steps": 10, "batch_size": 4, "learning_rate": 0.01, "ema_half_life": 40} | changes)


class Crash(Exception):
    """A training that ends without warning."""


def session(
    folder: Path,
    *,
    crash_at: int | None = None,
    identity: dict[str, object] | None = None,
    callback: Callable[[int, TrainingResult], None] = lambda step, result: None,
    every_minutes: float = 0.0,
    model: nn.Module | None = None,
    **changes: object,
) -> TrainingResult:
    """One call of train, with a checkpoint after each step; a crash comes before the checkpoint of its step."""

    def watch(step: int, result: TrainingResult) -> None:
        callback(step, result)
        if step == crash_at:
            raise Crash

    run = Run(folder, identity or {}, every_minutes, log_every=3)
    return train(model or network(), loss, IMAGES, config(**changes), run=run, callback=watch, progress=False)


def files_in(folder: Path) -> list[str]:
    """What a folder holds beside the empty file that the process which trains there holds."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def kept(
    folder: Path, identity: dict[str, object] | None = None
) -> tuple[dict[str, Tensor], dict[str, object], list[dict[str, object]]]:
    """All that a folder holds and that must not depend on interruptions: everything but times."""
    tensors, state = Run(folder, identity or {}).load()
    log = Run(folder).read_log()
    for entry in (state, *log):
        entry.pop("seconds")
    return tensors, state, log


def assert_same(folder: Path, other: Path, identity: dict[str, object] | None = None) -> None:
    tensors, state, log = kept(folder, identity)
    wanted_tensors, wanted_state, wanted_log = kept(other, identity)
    assert tensors.keys() == wanted_tensors.keys()
    for name, value in wanted_tensors.items():
        assert torch.equal(tensors[name], value), name
    assert (state, log) == (wanted_state, wanted_log)


# ── resume is exact ───────────────────────────────────────────────────────

CONFIGS = {
    "plain": {},
    "three parts": {"batch_size": 6, "n_parts": 3},
    "average every third step": {"ema_every": 3},
    "no average": {"ema_half_life": None},
    "bfloat16, channels last, fused": {"precision": "bfloat16", "channels_last": True, "fused": True},
    "warm-up, decay, clipping": {"warmup_steps": 3, "decay": "cosine", "decay_steps": 4, "grad_clip": 0.1},
    "all at once": {
        "n_parts": 2, "ema_every": 2, "precision": "bfloat16", "channels_last": True, "fused": True, "decay": "cosine",
    },
    "muon": {"optimizer": "muon"},
    "muon and all at once": {
        "optimizer": "muon", "n_parts": 2, "precision": "bfloat16", "channels_last": True, "fused": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_an_interrupted_training_is_bit_for_bit_the_uninterrupted_one(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, average, moments, losses, log, random states and the place inside the epoch of 3¼ batches."""
    monkeypatch.setattr(training.optimizers, "SMALLEST", 2)  # Muon is for this small network's convolutions too
    whole = session(tmp_path / "whole", **CONFIGS[name])
    # Without a folder there is no trace of a checkpoint either: saving changes nothing.
    alone = train(network(), loss, IMAGES, config(**CONFIGS[name]), progress=False)
    assert alone.losses == whole.losses
    for crashes in ([1, 2], [3, 4, 8], [5], [10]):
        folder = tmp_path / str(crashes)
        for step in crashes:
            with pytest.raises(Crash):
                session(folder, crash_at=step, **CONFIGS[name])
        result = session(folder, **CONFIGS[name])
        assert_same(folder, tmp_path / "whole")
        assert (result.losses, result.grad_norms) == (whole.losses, whole.grad_norms)
        for after, before in ((result.model, whole.model), (result.ema, whole.ema)):
            for name_, value in before.state_dict().items() if before else ():
                assert torch.equal(after.state_dict()[name_], value), name_
        assert not result.model.training


class Remembering:
    """A loss with a state: a running mean of the pictures, which each value depends on."""

    def __init__(self) -> None:
        self.mean = torch.zeros(3, 4, 4)

    def __call__(self, model: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return loss(model, x, generator) + (model(self.mean[None]) - self.mean).square().mean()

    def state_dict(self) -> dict[str, Tensor]:
        return {"mean": self.mean}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.mean = state["mean"]


def test_what_a_loss_remembers_goes_on_too(tmp_path: Path) -> None:
    def stop(step: int, result: TrainingResult) -> None:
        if step == 4:
            raise Crash

    whole, remembered = train(network(), Remembering(), IMAGES, config(), progress=False), Remembering()
    run = Run(tmp_path, every_minutes=0.0)
    with pytest.raises(Crash):
        train(network(), remembered, IMAGES, config(), run=run, callback=stop, progress=False)
    result = train(network(), Remembering(), IMAGES, config(), run=Run(tmp_path), progress=False)
    assert result.losses == whole.losses


class Late(Remembering):
    """One whose state appears when it is first called."""

    def __init__(self) -> None:
        self.mean = None

    def __call__(self, model: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        if self.mean is None:
            self.mean = torch.zeros(3, 4, 4)
        return super().__call__(model, x, generator)

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self.mean is None else super().state_dict()


def test_a_state_that_appears_late_goes_on_too_and_a_loss_without_it_is_refused(tmp_path: Path) -> None:
    whole = train(network(), Late(), IMAGES, config(), progress=False)
    train(network(), Late(), IMAGES, config(n_steps=4), run=Run(tmp_path), progress=False)
    wrapped = Late()
    with pytest.raises(ValueError, match=r"what a loss remembers \(loss.mean\).*got function; .* not wrapped"):
        train(network(), lambda *given: wrapped(*given), IMAGES, config(), run=Run(tmp_path), progress=False)
    result = train(network(), Late(), IMAGES, config(), run=Run(tmp_path), progress=False)
    assert result.losses == whole.losses


class TwoProcesses(training.loop.SingleProcess):
    num_processes = 2


def test_a_network_with_running_averages_needs_one_process() -> None:
    with pytest.raises(ValueError, match="expected one process for a network with running averages, got 2"):
        train(network(), loss, IMAGES, config(n_parts=2), accelerator=TwoProcesses(), progress=False)


def test_a_loss_that_remembers_needs_one_process(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one process for a loss with a state of its own, got 2"):
        train(network(), Remembering(), IMAGES, config(n_parts=2), accelerator=TwoProcesses(), progress=False)


def test_the_checkpoint_keeps_the_layout_of_the_optimiser_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fused AdamW walks weights and moments in memory order: another order would pair the wrong ones."""
    options, strides, step = {"channels_last": True, "fused": True}, [], torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW) -> None:
        strides.append([(p.stride(), s["exp_avg"].stride(), s["exp_avg_sq"].stride()) for p, s in self.state.items()])
        step(self)

    session(tmp_path, n_steps=2, **options)
    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    session(tmp_path, n_steps=4, **options)
    assert len(strides) == 2
    assert strides[0][0] == 3 * ((27, 1, 9, 3),)  # 3 × 3 × 3 weights, channels last
    assert all(a == b == c for a, b, c in strides[0])


def test_a_training_can_be_made_longer(tmp_path: Path) -> None:
    session(tmp_path / "whole", n_steps=15)
    for n_steps in (6, 9, 15):
        session(tmp_path / "stages", n_steps=n_steps)
    assert_same(tmp_path / "stages", tmp_path / "whole")


def test_a_decay_branch_starts_from_a_constant_rate(tmp_path: Path) -> None:
    """What leaves n_steps and decay out of the identity may change them: open-ended first, a release from it later."""
    decay = {"n_steps": 10, "decay": "cosine", "decay_steps": 4}
    session(tmp_path / "trunk", n_steps=6, identity={"recipe": "one"})
    shutil.copytree(tmp_path / "trunk", tmp_path / "branch")
    session(tmp_path / "branch", identity={"recipe": "one"}, **decay)
    session(tmp_path / "whole", identity={"recipe": "one"}, **decay)
    assert_same(tmp_path / "branch", tmp_path / "whole", {"recipe": "one"})
    session(tmp_path / "trunk", n_steps=8, identity={"recipe": "one"})  # and the trunk goes on at the full rate
    trunk = {entry["step"]: entry["learning_rate"] for entry in Run(tmp_path / "trunk").read_log()}
    assert trunk == {3: 0.01, 6: 0.01, 8: 0.01}
    assert [config(**decay).learning_rate_at(k) for k in (0, 5, 6)] == [0.01] * 3
    assert config(**decay).learning_rate_at(8) == pytest.approx(0.005)


def test_a_finished_training_returns_at_once(tmp_path: Path) -> None:
    whole = session(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    steps: list[int] = []
    model = network()
    again = session(tmp_path, model=model, callback=lambda step, result: steps.append(step))
    assert steps == []
    assert again.losses == whole.losses
    assert again.seconds == pytest.approx(whole.seconds)
    assert again.model is model
    assert torch.equal(again.ema[0].weight, whole.ema[0].weight)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_weights_that_two_layers_share_are_kept(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Tanh(), nn.Conv2d(3, 3, 1))
        model[2].weight = model[0].weight
        return model.apply(lambda layer: nn.init.ones_(layer.weight) if hasattr(layer, "weight") else None)

    torch.manual_seed(0)
    start = tied().state_dict()
    for sessions in ([4], [2, 4]):
        for n_steps in sessions:
            model = tied()
            model.load_state_dict(start)
            session(tmp_path / str(sessions), model=model, n_steps=n_steps)
    tensors, wanted = (kept(tmp_path / name)[0] for name in ("[2, 4]", "[4]"))
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)


def test_fewer_steps_than_the_average_waits_for_change_nothing_that_is_kept(tmp_path: Path) -> None:
    """What is given back has an average of them; the checkpoint goes on as if there had been no end."""
    short = session(tmp_path / "stages", n_steps=3, ema_every=4)
    assert not torch.equal(short.ema[0].weight, network()[0].weight)
    again = session(tmp_path / "stages", n_steps=3, ema_every=4)
    assert torch.equal(again.ema[0].weight, short.ema[0].weight)
    session(tmp_path / "stages", ema_every=4)
    session(tmp_path / "whole", ema_every=4)
    assert_same(tmp_path / "stages", tmp_path / "whole")


# ── one process at a time ─────────────────────────────────────────────────


def test_a_folder_in_which_another_process_trains_is_refused_and_left_alone(tmp_path: Path) -> None:
    """Else the slower one would put its old state over the newer one, and remove its half-written files."""
    seen = []

    def intrude(step: int, result: TrainingResult) -> None:
        if step != 5:
            return
        unfinished = tmp_path / ".checkpoint.safetensors.half"
        unfinished.write_text("half")
        other = run_script("import sys; from pathlib import Path; from test_training_run import session as s; "
                           "s(Path(sys.argv[1]))", tmp_path)  # fmt: skip
        seen.append((other.returncode, other.stderr.splitlines()[-1], unfinished.exists(), kept(tmp_path)[1]["step"]))

    session(tmp_path, callback=intrude)
    message = f"another process trains in {tmp_path}: wait until it has ended, or choose another folder"
    assert seen == [(1, f"ValueError: {message}", True, 4)]
    session(tmp_path)  # it has let go of it


@pytest.mark.parametrize("end", [Crash, KeyboardInterrupt])
def test_a_training_that_ends_early_lets_go_of_its_folder(tmp_path: Path, end: type[BaseException]) -> None:
    def leave(step: int, result: TrainingResult) -> None:
        raise end

    with pytest.raises(end):
        session(tmp_path, callback=leave)
    other = Run(tmp_path)
    other.acquire()
    with pytest.raises(ValueError, match="another process trains in"):
        session(tmp_path)
    other.release()
    session(tmp_path)


def test_where_nothing_can_be_locked_it_trains_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(training.run.FileLock, "acquire", none)
    assert len(session(tmp_path).losses) == 10


def test_a_folder_that_one_may_not_lock_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else may be training there, under another account."""

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(training.run.FileLock, "acquire", denied)
    with pytest.raises(ValueError, match=r"expected to be allowed to lock .*\.lock, got Permission denied"):
        session(tmp_path)
    assert files_in(tmp_path) == []


# ── stops ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kinds", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGTERM, signal.SIGTERM]])
@pytest.mark.parametrize("step", [4, 10])
def test_asked_to_stop_it_completes_the_step_and_saves_it(tmp_path: Path, kinds: list[int], step: int) -> None:
    """At the last step as well: who pressed Ctrl-C does not want to see the program go on."""
    handlers = [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)]

    def stop(number: int, result: TrainingResult) -> None:
        for kind in kinds if number == step else ():
            os.kill(os.getpid(), kind)

    with pytest.raises(KeyboardInterrupt):
        session(tmp_path / "stopped", callback=stop, every_minutes=1e9)
    assert kept(tmp_path / "stopped")[1]["step"] == step
    assert [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)] == handlers
    session(tmp_path / "stopped")
    session(tmp_path / "whole")
    assert_same(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_does_not_wait(tmp_path: Path, first: int) -> None:
    seen = []

    def stop(number: int, result: TrainingResult) -> None:
        if number == 4:
            os.kill(os.getpid(), first)
            seen.append("after the first")
            os.kill(os.getpid(), signal.SIGINT)
            seen.append("after the second")

    with pytest.raises(KeyboardInterrupt):
        session(tmp_path, callback=stop)
    assert seen == ["after the first"]
    assert kept(tmp_path)[1]["step"] == 3


def test_ctrl_c_is_not_for_what_ignores_it(tmp_path: Path) -> None:
    """As a shell has it for what it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        result = session(tmp_path, callback=lambda step, result: os.kill(os.getpid(), signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(result.losses) == 10


def test_without_a_folder_ctrl_c_does_what_it_always_does() -> None:
    def stop(number: int, result: TrainingResult) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            train(network(), loss, IMAGES, config(), callback=stop, progress=False)
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_signals_are_left_alone(tmp_path: Path) -> None:
    thread = threading.Thread(target=session, args=(tmp_path,))
    thread.start()
    thread.join()
    assert kept(tmp_path)[1]["step"] == 10


# One process that imports everything once, and forks the trainings that are to be killed.
KILLED = """
    import os, random, signal, sys, time
    from pathlib import Path
    from test_training_run import Run, session

    root, rng, halves, steps = Path(sys.argv[1]), random.Random(0), 0, set()
    reader, writer = os.pipe()

    class Slow:  # half a file, a pause, the other half
        def __init__(self, file): self.file = file
        def __enter__(self): return self
        def __exit__(self, *_): self.file.close()
        def __getattr__(self, name): return getattr(self.file, name)
        def write(self, content):
            self.file.write(content[: len(content) // 2])
            self.file.flush()
            os.write(writer, b"w")
            time.sleep(0.02)
            self.file.write(content[len(content) // 2 :])

    def start(folder, slow):
        pid = os.fork()
        if pid:
            return pid
        if slow:
            opened = os.fdopen
            os.fdopen = lambda handle, mode: Slow(opened(handle, mode))
        session(folder, n_steps=30, n_parts=2)
        os._exit(0)

    session(root / "whole", n_steps=30, n_parts=2)  # here, so that what PyTorch imports late is there for all of them
    for attempt in range(8):
        pid = start(root / "killed", slow=True)
        for _ in range(rng.randint(1, 4)):
            assert os.read(reader, 1) == b"w"
        time.sleep(rng.choice([0, 0.005, 0.02, 0.025]))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        run = Run(root / "killed")
        good = run.load()  # raises if it is not whole
        halves += any(p.stat().st_size for p in run.folder.glob(".checkpoint*"))
        steps.add(good[1]["step"] if good else 0)
        os.set_blocking(reader, False)
        try:
            os.read(reader, 1000)
        except BlockingIOError:
            pass
        os.set_blocking(reader, True)
    assert os.waitpid(start(root / "killed", slow=False), 0)[1] == 0
    print(halves, len(steps))
"""


def run_script(script: str, *arguments: str | Path) -> subprocess.CompletedProcess:
    here = Path(__file__).parent
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kill -9 is a thing of POSIX systems")
def test_kill_9_at_any_moment_even_inside_a_checkpoint_loses_nothing_that_was_saved(tmp_path: Path) -> None:
    done = run_script(KILLED, tmp_path)
    assert done.returncode == 0, done.stderr
    inside_a_write, different_steps = map(int, done.stdout.split())
    assert inside_a_write >= 2  # or the moment that matters was never met
    assert different_steps >= 3
    assert_same(tmp_path / "killed", tmp_path / "whole")
    assert files_in(tmp_path / "killed") == ["checkpoint.safetensors", "log.jsonl"]


# ── a full disk ───────────────────────────────────────────────────────────

LIMITED = """
    import resource, sys
    from pathlib import Path
    from test_training_run import session

    def limit(step, result):
        if step == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    session(Path(sys.argv[1]), callback=limit)
"""


@pytest.mark.skipif(os.name != "posix", reason="file sizes are limited on POSIX systems")
def test_where_no_more_can_be_written_the_last_checkpoint_stays(tmp_path: Path) -> None:
    done = run_script(LIMITED, tmp_path / "limited")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("OSError: [Errno 27] no checkpoint could be written, the last one is kept (File too large)")
    assert str(tmp_path / "limited" / "checkpoint.safetensors") in last
    assert files_in(tmp_path / "limited") == ["checkpoint.safetensors", "log.jsonl"]
    assert kept(tmp_path / "limited")[1]["step"] == 4
    session(tmp_path / "limited")
    session(tmp_path / "whole")
    assert_same(tmp_path / "limited", tmp_path / "whole")


@pytest.mark.parametrize("good_ones", [0, 2])
def test_a_full_disk_is_named_and_leaves_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good_ones: int
) -> None:
    sync, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > good_ones:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no checkpoint could be written") as caught:
        session(tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "checkpoint.safetensors")
    assert ("the last one is kept" if good_ones else "there is none yet") in str(caught.value)
    assert "No space left on device" in str(caught.value)
    left = [name for name in files_in(tmp_path) if name != "log.jsonl"]
    assert left == (["checkpoint.safetensors"] if good_ones else [])
    if good_ones:
        assert kept(tmp_path)[1]["step"] == 2


# ── checkpoints that cannot be gone on from ───────────────────────────────


def _flip(content: bytes) -> bytes:
    return content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda content: b"", "is damaged or no checkpoint"),
        (lambda content: content[:-1], "is damaged or no checkpoint"),
        (lambda content: content[:100], "is damaged or no checkpoint"),
        (lambda content: b"PK\x03\x04" + content, "is damaged or no checkpoint"),
        (_flip, r"is damaged \(its checksum differs\)"),
        (
            lambda content: content.replace(b'\\"step\\": 2', b'\\"step\\": 3'),
            r"is damaged or no checkpoint \(the checksum of its state differs\)",
        ),
        (lambda content: safetensors.torch.save({"a": torch.ones(1)}), "is damaged or no checkpoint .*'state'"),
        (lambda content: safetensors.torch.save({"a": torch.ones(1)}, {"state": "3"}), "is damaged or no checkpoint"),
        (lambda content: safetensors.torch.save({"a": torch.ones(1)}, {"state": "{"}), "is damaged or no checkpoint"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_left_alone(
    tmp_path: Path, damage: Callable[[bytes], bytes], named: str
) -> None:
    session(tmp_path, n_steps=2)
    file = Run(tmp_path).checkpoint
    file.write_bytes(damage(file.read_bytes()))
    damaged, log = file.read_bytes(), Run(tmp_path).log.read_bytes()
    model = network()
    with pytest.raises(ValueError, match=rf"checkpoint\.safetensors {named}.*: remove it to start anew"):
        session(tmp_path, model=model)
    assert file.read_bytes() == damaged
    assert Run(tmp_path).log.read_bytes() == log
    assert torch.equal(model[0].weight, network()[0].weight)


def test_another_training_is_refused_by_what_differs(tmp_path: Path) -> None:
    identity = {"recipe": "one", "config": {"batch_size": 4, "betas": (0.9, 0.99)}, "classes": ["a", "b"]}
    session(tmp_path, n_steps=2, identity=identity)
    session(tmp_path, n_steps=3, identity=identity)  # tuples come back as lists, and are the same
    other = identity | {"recipe": "two", "config": {"batch_size": 8, "betas": (0.9, 0.99), "seed": 1}}
    with pytest.raises(ValueError, match="of another training") as caught:
        session(tmp_path, identity=other)
    message = str(caught.value)
    assert "recipe: expected 'two', got 'one'" in message
    assert "config.batch_size: expected 8, got 4" in message
    assert "config.seed: expected 1, got None" in message
    assert "betas" not in message
    assert "classes" not in message
    assert message.endswith(": choose another folder")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n_parts": 2}, r"n_parts: expected 2, got 1"),
        ({"ema_half_life": None}, r"average of the weights: expected False, got True"),
        ({"n_steps": 2}, r"is at step 3 already: expected n_steps at least as large, got 2"),
        ({"optimizer": "muon"}, r"optimizer: expected 'muon', got 'adamw'"),
        ({"model": network(16)}, r"is of another network: .*size mismatch for 0\.weight"),
        ({"model": nn.Sequential(nn.Conv2d(3, 3, 1))}, r"is of another network: .*[Uu]nexpected key"),
    ],
)
def test_what_the_identity_left_out_is_noticed_where_it_matters(
    tmp_path: Path, changes: dict[str, object], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.optimizers, "SMALLEST", 2)
    session(tmp_path, n_steps=3)
    before = Run(tmp_path).checkpoint.read_bytes()
    with pytest.raises(ValueError, match=f"(?s){named}"):
        session(tmp_path, **changes)
    assert Run(tmp_path).checkpoint.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"optimizer": "adamw"}, r"optimizer: expected 'adamw', got 'muon'"),
        ({"optimizer": "muon", "channels_last": True}, r"channels_last: expected True, got False"),
    ],
)
def test_muons_momentum_fits_no_other_optimizer_and_layout(
    tmp_path: Path, changes: dict[str, object], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.optimizers, "SMALLEST", 2)
    session(tmp_path, n_steps=3, optimizer="muon")
    with pytest.raises(ValueError, match=named):
        session(tmp_path, **changes)


def test_another_set_of_examples_is_refused(tmp_path: Path) -> None:
    session(tmp_path, n_steps=3)
    with pytest.raises(ValueError, match="examples: expected 7, got 13"):
        train(network(), loss, IMAGES[:7], config(), run=Run(tmp_path), progress=False)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"every_minutes": -1.0}, "every_minutes >= 0, got -1"),
        ({"every_minutes": math.nan}, "every_minutes >= 0, got nan"),
        ({"log_every": 0}, "log_every to be an integer >= 1, got 0"),
        ({"identity": {"device": torch.device("cpu")}}, "identity .* that JSON can hold"),
        ({"origin": {"device": torch.device("cpu")}}, "origin that JSON can hold"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_once(
    tmp_path: Path, options: dict[str, object], named: str
) -> None:
    with pytest.raises(ValueError, match=f"expected .*{named}"):
        Run(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


# ── when, and the log ─────────────────────────────────────────────────────


def test_checkpoints_come_after_the_time_that_was_asked_for_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that a step moves on by one minute."""
    clock, saved, save = [0.0], [], Run.save

    def spy(self: Run, tensors: object, state: dict[str, int]) -> None:
        saved.append(state["step"])
        save(self, tensors, state)

    monkeypatch.setattr(training.run.time, "monotonic", lambda: 60.0 * clock[0])
    monkeypatch.setattr(Run, "save", spy)
    session(tmp_path, callback=lambda step, result: clock.__setitem__(0, float(step)), every_minutes=4)
    assert saved == [4, 8, 10]


def test_the_log_has_means_since_the_line_before(tmp_path: Path) -> None:
    result = session(tmp_path, warmup_steps=6)
    log = Run(tmp_path).read_log()
    assert [entry["step"] for entry in log] == [3, 6, 9, 10]
    assert [entry["images"] for entry in log] == [12, 24, 36, 40]
    for entry, steps in zip(log[:3], ([0, 1, 2], [3, 4, 5], [6, 7, 8]), strict=True):
        assert entry["loss"] == pytest.approx(sum(result.losses[k] for k in steps) / 3, abs=1e-6)
        assert entry["grad_norm"] == pytest.approx(sum(result.grad_norms[k] for k in steps) / 3, abs=1e-4)
        assert entry["learning_rate"] == config(warmup_steps=6).learning_rate_at(steps[-1])
    assert log[3]["loss"] == pytest.approx(result.losses[9], abs=1e-6)  # a line of one step
    assert 0 <= log[0]["seconds"] <= log[-1]["seconds"] <= result.seconds + 0.1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.log.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"the log could not be written \(No space left on device\)") as caught:
        run.append_log({"step": 1})
    assert caught.value.filename == str(run.log)


def test_a_log_that_is_ahead_of_the_checkpoint_is_cut_back(tmp_path: Path) -> None:
    """The log is written at once, checkpoints now and then: a crash leaves lines whose steps will be made again."""
    session(tmp_path / "whole")
    session(tmp_path / "cut", n_steps=3)
    with pytest.raises(Crash):
        session(tmp_path / "cut", crash_at=8, every_minutes=1e9)
    with Run(tmp_path / "cut").log.open("a") as file:
        file.write('{"step": 9, "loss": 0.1')  # torn
    assert [entry["step"] for entry in Run(tmp_path / "cut").read_log()] == [3, 6]
    session(tmp_path / "cut")
    assert_same(tmp_path / "cut", tmp_path / "whole")


def test_the_log_of_a_training_without_a_checkpoint_starts_anew(tmp_path: Path) -> None:
    with pytest.raises(Crash):
        session(tmp_path / "cut", crash_at=8, every_minutes=1e9)
    assert not Run(tmp_path / "cut").checkpoint.exists()
    session(tmp_path / "cut")
    session(tmp_path / "whole")
    assert_same(tmp_path / "cut", tmp_path / "whole")


def test_a_checkpoint_tells_what_its_training_went_on_from_and_nothing_else_reads_it(tmp_path: Path) -> None:
    assert Run(tmp_path).state() is None
    origin = {"sha256": "0a", "images_seen": 7}
    for k, run in enumerate((Run(tmp_path, {"recipe": "one"}, origin=origin), Run(tmp_path, {"recipe": "one"}))):
        train(network(), loss, IMAGES, config(n_steps=2 + k), run=run, progress=False)
        state = Run(tmp_path).state()  # of any training: nothing has to agree
        assert (state["step"], state["identity"]) == (2 + k, {"recipe": "one"})
        assert state["origin"] == (None if k else origin)


TAILS = ["{", '{"step": 6, "lo', "\x00\x00\x00", "\udcff", "null", "[]", "7\n{}", '{"step": null}\n{"step": 6}']


@pytest.mark.parametrize("tail", TAILS)
def test_a_torn_last_line_is_left_out(tmp_path: Path, tail: str) -> None:
    run = Run(tmp_path)
    assert run.read_log() == []
    run.append_log({"step": 3})
    with run.log.open("a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(tail)
    assert run.read_log() == [{"step": 3}]
    run.tidy(3)
    assert run.log.read_text() == json.dumps({"step": 3}) + "\n"


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    for name in (".checkpoint.safetensors.abc", ".log.jsonl.xyz", "notes.txt"):
        (tmp_path / name).write_text("half")
    session(tmp_path)
    assert files_in(tmp_path) == ["checkpoint.safetensors", "log.jsonl", "notes.txt"]
