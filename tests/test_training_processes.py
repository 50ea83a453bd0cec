"""helpers.training.processes: two processes train as one does.

They are started once for the whole module, over gloo on this machine, by PyTorch's own launcher. What they compute is
not bit for bit what one process computes: sums over the parts of a batch are taken in another order (inside one process
each part is added to the gradients so far; over processes each adds its own first), and float32 addition is not
associative. A few steps of training multiply the difference of 1e-7 by no more than ten or so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers import training
from helpers.training import Run, TrainingConfig, TrainingResult, train
from helpers.training.processes import SingleProcess, from_main, gather_objects, reduce

pytest.importorskip("accelerate", reason="many processes need accelerate")
POINTS = torch.randn(22, 5, generator=torch.Generator().manual_seed(0))


def loss(model: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
    return (model(x + torch.randn(x.shape, generator=generator)) - x).square().mean()


def network() -> nn.Module:
    """Different in each process, as where nobody sets a seed: the first process's weights must win."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(os.environ.get("RANK", "0")))
        return nn.Sequential(nn.Linear(5, 16), nn.SiLU(), nn.Dropout(0.3), nn.Linear(16, 5))


def config(**changes: object) -> TrainingConfig:
    return TrainingConfig(**{"n_steps": 12, "batch_size": 8, "learning_rate": 0.01, "n_parts": 4} | changes)


def trained(folder: Path | None = None, engine: object = None, **changes: object) -> TrainingResult:
    run = Run(folder, every_minutes=0, log_every=4) if folder else None
    return train(network(), loss, POINTS, config(**changes), run=run, accelerator=engine, progress=False)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# ── what each of the two processes does ───────────────────────────────────


def scenes(folder: Path) -> None:
    """Called in each process by the script below; what it has to say goes into one file a process."""
    engine = training.accelerator(cpu=True)
    assert training.accelerator(cpu=True).num_processes == engine.num_processes == 2
    rank, said = engine.process_index, {}

    def tell(name: str, result: TrainingResult) -> None:
        said[name] = {
            "losses": result.losses, "norms": result.grad_norms, "model": flat(result.model), "ema": flat(result.ema)
        }  # fmt: skip

    def refused(name: str, error: type[Exception], **changes: object) -> None:
        try:
            trained(folder / name, engine, **changes)
        except error as caught:
            said[name] = str(caught)

    tell("two parts", trained(engine=engine, n_parts=2))
    tell("four parts", trained(folder / "four", engine))
    trained(folder / "first half", engine, n_steps=5)
    tell("second half", trained(folder / "begun by one", engine))
    said["sums"] = [reduce(engine, torch.tensor([1.0 + rank, 5.0]), how) for how in ("sum", "mean", "max")]
    said["gathered"] = gather_objects(engine, [f"{rank}a", f"{rank}b"])
    said["from main"] = from_main(engine, lambda: f"made by {rank}")

    refused("odd", ValueError, n_parts=3, batch_size=9)
    if rank == 0:
        (folder / "damaged").mkdir()
        (folder / "damaged" / "checkpoint.safetensors").write_bytes(b"?")
    engine.wait_for_everyone()
    refused("damaged", ValueError)
    if rank == 0:  # a file where a folder should be: the first process cannot save, and all must know
        Run.save, save = _fail, Run.save
    refused("full", OSError)
    if rank == 0:
        Run.save = save

    remembered = network()
    try:
        train(remembered, lambda m, x, g: loss(remembered, x, g), POINTS, config(), accelerator=engine, progress=False)
    except ValueError as caught:
        said["remembered"] = str(caught)

    def stop(step: int, result: TrainingResult) -> None:
        if step == 7 and rank == 1:  # one is told to stop, and both do
            os.kill(os.getpid(), 15)

    run = Run(folder / "stopped", every_minutes=1e9)
    try:
        train(network(), loss, POINTS, config(), run=run, accelerator=engine, callback=stop, progress=False)
    except KeyboardInterrupt:
        said["stopped"] = "yes"

    counted, saves = Run(folder / "counted", every_minutes=1e-9), []
    gather = training.loop.gather_objects
    training.loop.gather_objects = lambda *arguments: (saves.append(1), gather(*arguments))[1]
    counted.is_due = lambda: rank == 1  # the clock of the second process, which writes nothing, has no say
    train(network(), loss, POINTS, config(), run=counted, accelerator=engine, progress=False)
    said["saves"] = len(saves)
    torch.save(said, folder / f"{rank}.pt")
    engine.end_training()


def _fail(self: Run, *_: object) -> None:
    raise OSError(28, "no checkpoint could be written", str(self.checkpoint))


SCRIPT = "import sys; from pathlib import Path; from test_training_processes import scenes; scenes(Path(sys.argv[1]))\n"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, object]]]:
    """The folder in which two processes worked, and what each of them said."""
    folder = tmp_path_factory.mktemp("processes")
    trained(folder / "begun by one", n_steps=5)
    script, here = folder / "script.py", Path(__file__).parent
    script.write_text(SCRIPT)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", script, folder],
        env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, [torch.load(folder / f"{rank}.pt") for rank in range(2)]


# ── what came out ─────────────────────────────────────────────────────────


@pytest.mark.parametrize(("name", "n_parts"), [("two parts", 2), ("four parts", 4)])
def test_two_processes_give_what_one_gives(
    stage: tuple[Path, list[dict[str, object]]], name: str, n_parts: int
) -> None:
    """With dropout and noise, at equal global batch: relative 1e-5 in every loss, norm and weight after 12 steps."""
    one = trained(n_parts=n_parts)
    for said in stage[1]:
        two = said[name]
        assert two["losses"] == pytest.approx(one.losses, rel=1e-5)
        assert two["norms"] == pytest.approx(one.grad_norms, rel=1e-5)
        torch.testing.assert_close(two["model"], flat(one.model), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(two["ema"], flat(one.ema), rtol=1e-5, atol=1e-6)
    other = trained(n_parts=1)  # other parts are other random numbers: the agreement is no accident
    assert other.losses != pytest.approx(one.losses, rel=1e-2)


@pytest.mark.parametrize("name", ["two parts", "four parts", "second half"])
def test_both_processes_end_with_the_same_bits(stage: tuple[Path, list[dict[str, object]]], name: str) -> None:
    first, second = (said[name] for said in stage[1])
    assert first["losses"] == second["losses"]
    assert torch.equal(first["model"], second["model"])
    assert torch.equal(first["ema"], second["ema"])


def test_one_process_goes_on_from_what_two_began_and_the_other_way_round(
    stage: tuple[Path, list[dict[str, object]]],
) -> None:
    folder, (said, _) = stage
    whole = trained()
    second_half = trained(folder / "first half")
    assert second_half.losses == pytest.approx(whole.losses, rel=1e-5)
    torch.testing.assert_close(flat(second_half.model), flat(whole.model), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(flat(second_half.ema), flat(whole.ema), rtol=1e-5, atol=1e-6)
    assert said["second half"]["losses"] == pytest.approx(whole.losses, rel=1e-5)
    assert said["second half"]["losses"][:5] == whole.losses[:5]  # these were made by one process
    torch.testing.assert_close(said["second half"]["model"], flat(whole.model), rtol=1e-5, atol=1e-6)


def test_checkpoints_hold_the_random_states_of_all_processes(stage: tuple[Path, list[dict[str, object]]]) -> None:
    trained(stage[0] / "by one")
    (one, _), (two, _) = (Run(stage[0] / name).load() for name in ("by one", "four"))
    assert one.keys() == two.keys()
    for name in one:
        if name.startswith(("stream", "order")):
            assert torch.equal(one[name], two[name]), name
    assert [entry["step"] for entry in Run(stage[0] / "four").read_log()] == [4, 8, 12]


def test_what_the_first_process_cannot_do_all_of_them_report(stage: tuple[Path, list[dict[str, object]]]) -> None:
    for said in stage[1]:
        assert said["odd"] == "expected n_parts divisible by 2 processes, got 3"
        assert "is damaged or no checkpoint" in said["damaged"]
        assert "no checkpoint could be written" in said["full"]


def test_a_loss_that_ignores_the_model_it_is_given_is_noticed(stage: tuple[Path, list[dict[str, object]]]) -> None:
    """Its gradients would never meet those of the other process, and the two would drift apart in silence."""
    for said in stage[1]:
        assert "the loss must call the model that it is given" in said["remembered"]


def test_both_stop_when_one_is_asked_to_and_the_state_is_saved(stage: tuple[Path, list[dict[str, object]]]) -> None:
    assert [said["stopped"] for said in stage[1]] == ["yes", "yes"]
    assert Run(stage[0] / "stopped").load()[1]["step"] == 7


def test_the_first_process_alone_decides_when_to_save(stage: tuple[Path, list[dict[str, object]]]) -> None:
    assert [said["saves"] for said in stage[1]] == [1, 1]  # at the end only


def test_what_processes_tell_each_other(stage: tuple[Path, list[dict[str, object]]]) -> None:
    for said in stage[1]:
        assert [values.tolist() for values in said["sums"]] == [[3, 10], [1.5, 5], [2, 5]]
        assert said["gathered"] == ["0a", "0b", "1a", "1b"]
        assert said["from main"] == "made by 0"


# ── one process ───────────────────────────────────────────────────────────

ALONE = """
import torch
from test_training_processes import flat, trained
from helpers import training
engine = training.accelerator(cpu=True)
assert (engine.num_processes, engine.device.type, engine.is_main_process) == (1, "cpu", True)
training.accelerator(cpu=True), training.accelerator()  # as often as one likes
a, b = trained(), trained(engine=engine)
assert a.losses == b.losses and torch.equal(flat(a.model), flat(b.model)) and torch.equal(flat(a.ema), flat(b.ema))
assert a.grad_norms == b.grad_norms
"""


def test_an_accelerator_of_one_process_changes_no_bit() -> None:
    """In a process of its own: what accelerate is told first, it keeps until the process ends."""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", ALONE],
        env=os.environ
        | {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{here}{os.pathsep}{here.parent}",
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",  # which would divide every gradient
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def test_without_an_accelerator_one_process_answers() -> None:
    engine, model, values = SingleProcess(), network(), torch.tensor([1.0, 2.0])
    assert engine.prepare(model) is model
    assert reduce(engine, values, "sum") is values
    assert gather_objects(engine, [1, 2]) == [1, 2]
    assert from_main(engine, lambda: 3) == 3
    with pytest.raises(KeyError), engine.no_sync(model):
        from_main(engine, lambda: {}["missing"])


def test_a_missing_accelerate_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match=r'needs accelerate: pip install "accelerate>=1"'):
        training.accelerator()


def test_the_command_line_joins_two_processes(tmp_path: Path) -> None:
    """``torchrun -m helpers train``: both processes know of each other, so the main one alone writes and speaks."""
    command = ["-m", "helpers", "train", "digits-classifier", "--out"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    run = subprocess.run(
        [*launcher, *command, str(tmp_path), "--set", "n_steps=20", "warmup_steps=0", "batch_size=8", "n_parts=2"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("wrote ") == 1
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]
