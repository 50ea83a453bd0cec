"""Tests of the engine: what is shared, what is not, and what happens when too much is asked, or nobody waits."""

from __future__ import annotations

import threading
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager

import pytest
import torch
from _serving import Parabola, energy_model
from torch import Tensor, nn

from helpers import generation, zoo
from helpers.langevin import langevin_dynamics
from helpers.serving import Cancelled, Draining, Engine, Job, QueueFull, ServedModel, Shared
from helpers.serving.drawing import draw, evaluations
from helpers.serving.engine import _Evaluation
from helpers.serving.schemas import Wanted

CARD = zoo.card("digits-ddpm")


class Gated(nn.Module):
    """A network that notes the size of each batch, and evaluates nothing while its gate is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.sizes, self.begun = threading.Event(), [], 0
        self.gate.set()

    def forward(self, x: Tensor, *conditions: Tensor) -> Tensor:
        self.begun += 1
        self.gate.wait(10)
        self.sizes.append(len(x))
        return x + 1


def model_of(network: nn.Module, name: str = "gated") -> ServedModel:
    return ServedModel(name, "diffusion", CARD, network, (), ("ddim",), 5, 100)


@contextmanager
def started(model: ServedModel, **options: object) -> Iterator[Engine]:
    engine = Engine({model.name: model}, threads=1, **options)
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


def steps(n: int, size: int = 1) -> Callable[[Shared], Tensor]:
    """Work that asks the network n times about ``size`` numbers."""

    def sample(network: Shared) -> Tensor:
        x = torch.zeros(size, 1)
        for _ in range(n):
            x = network(x)
        return x

    return sample


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def count(engine: Engine, outcome: str) -> float:
    return engine.metrics.registry.get_sample_value("course_jobs_total", {"outcome": outcome}) or 0.0


# ── the same answers ──────────────────────────────────────────────────────


def wanted(model: ServedModel, seed: int, n: int = 1, steps: int = 4, **more: object) -> Wanted:
    return Wanted(model, n, seed, steps, model.samplers[0], 1, **more)


def test_pictures_are_those_of_the_library_alone_and_among_others() -> None:
    """Alone they are equal to the last bit; among others, with other numbers of steps, to 1e-4 of the range 2."""
    network = zoo.load("digits-ddpm")
    model = model_of(network, "digits-ddpm")
    asked = [wanted(model, seed=k, n=1 + k % 3, steps=3 + k % 4) for k in range(8)]
    with started(model) as engine:
        alone = [engine.submit(model, lambda net, w=w: draw(net, w), images=w.n).future.result(30) for w in asked]
        jobs = [engine.submit(model, lambda net, w=w: draw(net, w), images=w.n) for w in asked]
        together = [job.future.result(30) for job in jobs]
    for one, first, again in zip(asked, alone, together, strict=True):
        library = generation.draw(network, CARD, one.n, seed=one.seed, steps=one.steps).images
        torch.testing.assert_close(first, library, rtol=0, atol=0)
        torch.testing.assert_close(again, library, rtol=0, atol=1e-4)


def test_requests_share_evaluations_and_join_those_under_way() -> None:
    network = Gated()
    model = model_of(network)
    with started(model, batch_wait=1.0) as engine:
        network.gate.clear()
        first = engine.submit(model, steps(4))
        wait_for(lambda: network.begun == 1)
        others = [engine.submit(model, steps(2)) for _ in range(3)]
        wait_for(lambda: len(engine._handed_over) == 3)
        network.gate.set()
        assert [float(job.future.result(5)) for job in (first, *others)] == [4, 2, 2, 2]
    assert network.sizes == [1, 4, 4, 1]


def test_a_request_alone_does_not_wait() -> None:
    network = Gated()
    model = model_of(network)
    with started(model, batch_wait=1.0) as engine:
        start = time.monotonic()
        engine.submit(model, steps(20)).future.result(5)
    assert time.monotonic() - start < 0.9
    assert network.sizes == [1] * 20


def test_nobody_waits_longer_than_the_patience_for_one_who_is_slow() -> None:
    network = Gated()
    model = model_of(network)
    slow = threading.Event()

    def dawdle(shared: Shared) -> Tensor:
        slow.wait(5)
        return shared(torch.zeros(1, 1))

    with started(model, batch_wait=0.02) as engine:
        late = engine.submit(model, dawdle)
        assert float(engine.submit(model, steps(3)).future.result(5)) == 3
        slow.set()
        late.future.result(5)
    assert network.sizes == [1] * 4


def test_large_batches_are_evaluated_in_parts() -> None:
    network = Gated()
    model = model_of(network)
    with started(model, batch_images=4) as engine:
        x = engine.submit(model, steps(1, size=10), images=10).future.result(5)
    assert network.sizes == [4, 4, 2]
    assert x.tolist() == [[1.0]] * 10


def test_inputs_that_do_not_fit_together_are_evaluated_apart() -> None:
    network = Gated()
    model = model_of(network)
    with started(model, batch_wait=0.01) as engine:
        shapes = [(1, 2), (1, 3), (2, 2)]
        jobs = [engine.submit(model, lambda net, shape=shape: net(torch.zeros(shape))) for shape in shapes]
        assert [tuple(job.future.result(5).shape) for job in jobs] == shapes


def test_a_mistake_ends_the_requests_that_share_it_and_no_others() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if bool((x > 2).any()):
                raise ValueError("too large")
            return x + 1

    model = model_of(Broken())
    with started(model) as engine:
        job = engine.submit(model, steps(9))
        with pytest.raises(ValueError, match="too large"):
            job.future.result(5)
        assert float(engine.submit(model, steps(2)).future.result(5)) == 2
        assert engine.alive
        assert (count(engine, "failed"), count(engine, "done")) == (1, 1)


# ── energies ──────────────────────────────────────────────────────────────


def test_langevin_dynamics_runs_on_shared_energies() -> None:
    model = energy_model()
    with started(model) as engine:
        jobs = [
            engine.submit(model, lambda net, w=wanted(model, seed=seed, n=2, steps=5): draw(net, w))
            for seed in (3, 4, 5)
        ]
        made = [job.future.result(10) for job in jobs]
    for seed, pictures in zip((3, 4, 5), made, strict=True):
        generator = torch.Generator().manual_seed(seed)
        x = 2 * torch.rand(2, 1, 8, 8, generator=generator) - 1
        x = langevin_dynamics(Parabola(), x, 5, 0.05, 0.01, clamp=(-1, 1), generator=generator)
        torch.testing.assert_close(pictures, x)


def test_a_chain_that_diverges_ends_its_own_request_only() -> None:
    class Cliff(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x > 100, torch.inf, x).flatten(1).sum(1)

    model = energy_model(Cliff())

    def start_at(value: float) -> Callable[[Shared], Tensor]:
        return lambda net: langevin_dynamics(net, torch.full((1, 1, 8, 8), value), 3, 0.1, 0.0)

    with started(model, batch_wait=0.2) as engine:
        jobs = [engine.submit(model, start_at(value)) for value in (0.0, 1e3, 1.0)]
        with pytest.raises(ValueError, match="not finite"):
            jobs[1].future.result(5)
        assert jobs[0].future.result(5).isfinite().all()
        assert jobs[2].future.result(5).isfinite().all()


# ── too much ──────────────────────────────────────────────────────────────


def test_slots_are_counted_in_pictures_and_the_queue_keeps_its_order() -> None:
    network = Gated()
    model = model_of(network)
    order: list[str] = []
    with started(model, batch_images=4) as engine:
        network.gate.clear()

        def add(name: str, images: int) -> Job:
            return engine.submit(model, steps(1), lambda result: order.append(name), images=images)

        jobs = [add("a", 3), add("b", 2), add("c", 1), add("d", 9)]
        assert [job.running for job in jobs] == [True, False, False, False]
        assert (engine.n_running, engine.n_waiting) == (1, 3)
        network.gate.set()
        for job in jobs:
            job.future.result(5)
    assert order[0] == "a"
    assert order[-1] == "d"  # larger than all slots: alone


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    network = Gated()
    model = model_of(network)
    with started(model, batch_images=1, queue_size=2) as engine:
        network.gate.clear()
        jobs = [engine.submit(model, steps(1), work=1) for _ in range(3)]
        with pytest.raises(QueueFull) as refused:
            engine.submit(model, steps(1))
        assert refused.value.waiting == 2
        assert 1 <= refused.value.retry_after <= 120
        assert count(engine, "refused") == 1
        network.gate.set()
        for job in jobs:
            job.future.result(5)
        engine.submit(model, steps(1)).future.result(5)


def test_work_is_estimated_by_evaluations() -> None:
    model = model_of(Gated())
    assert evaluations(wanted(model, 0, n=3, steps=5)) == 15
    continuous = ServedModel("m", "diffusion", {}, Gated(), ("a",), ("heun",), 5, 100)
    assert evaluations(wanted(continuous, 0, n=2, steps=5, guidance=2.0)) == 2 * 9 * 2


# ── nobody waits ──────────────────────────────────────────────────────────


def test_cancelling_frees_the_slot() -> None:
    network = Gated()
    model = model_of(network)
    with started(model, batch_images=1) as engine:
        network.gate.clear()
        running, waiting = engine.submit(model, steps(1000)), engine.submit(model, steps(1))
        last = engine.submit(model, steps(2))
        engine.cancel(waiting)
        assert waiting.future.cancelled()
        with pytest.raises(CancelledError):
            waiting.future.result(0)
        engine.cancel(running)
        network.gate.set()
        assert float(last.future.result(5)) == 2
        with pytest.raises(Cancelled):
            running.future.result(5)
        assert len(network.sizes) <= 3  # the one under way, and two of the last
        wait_for(lambda: engine.n_running == 0)
        assert count(engine, "cancelled") == 2


def test_cancelling_does_not_wait_for_the_evaluation_of_others() -> None:
    network = Gated()
    model = model_of(network)
    with started(model) as engine:
        network.gate.clear()
        first = engine.submit(model, steps(1))
        wait_for(lambda: network.begun == 1)
        second = engine.submit(model, steps(1))
        wait_for(lambda: len(engine._handed_over) == 1)
        engine.cancel(second)
        with pytest.raises(Cancelled):
            second.future.result(5)
        network.gate.set()
        assert float(first.future.result(5)) == 1


def test_cancelling_what_is_done_changes_nothing() -> None:
    model = model_of(Gated())
    with started(model) as engine:
        job = engine.submit(model, steps(1))
        assert float(job.future.result(5)) == 1
        engine.cancel(job)
        assert float(job.future.result(0)) == 1
        wait_for(lambda: count(engine, "done") == 1)
        assert count(engine, "cancelled") == 0


# ── the end ───────────────────────────────────────────────────────────────


def test_draining_finishes_what_is_there_and_takes_nothing_new() -> None:
    network = Gated()
    model = model_of(network)
    engine = Engine({model.name: model}, batch_images=1, threads=1)
    engine.start()
    network.gate.clear()
    jobs = [engine.submit(model, steps(3)) for _ in range(3)]
    engine.drain()
    assert engine.alive
    assert not engine.ready
    with pytest.raises(Draining):
        engine.submit(model, steps(1))
    network.gate.set()
    assert engine.close(5) is True
    assert [float(job.future.result(0)) for job in jobs] == [3, 3, 3]
    assert not engine.alive


def test_closing_cancels_what_takes_too_long() -> None:
    network = Gated()
    model = model_of(network)
    engine = Engine({model.name: model}, batch_images=1, threads=1)
    engine.start()
    jobs = [engine.submit(model, steps(10**9)) for _ in range(2)]
    assert engine.close(0.05) is False
    assert jobs[1].future.cancelled()
    with pytest.raises(Cancelled):
        jobs[0].future.result(0)
    assert not engine.alive
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("job")]


def test_letting_go_of_all_is_told_before_the_evaluation_under_way_has_ended() -> None:
    network = Gated()
    model = model_of(network)
    with started(model, batch_images=1) as engine:
        network.gate.clear()
        running, waiting = engine.submit(model, steps(1000)), engine.submit(model, steps(1))
        wait_for(lambda: network.begun == 1)
        engine.cancel_all()
        with pytest.raises(Cancelled):
            running.future.result(0)
        assert waiting.future.cancelled()
        assert engine.n_running == 1  # it cannot be stopped in the middle
        with pytest.raises(Draining):
            engine.submit(model, steps(1))
        network.gate.set()
        wait_for(lambda: engine.n_running == 0)
        wait_for(lambda: count(engine, "cancelled") == 2)


def test_an_engine_starts_once() -> None:
    model = model_of(Gated())
    with started(model) as engine, pytest.raises(RuntimeError, match="never started"):
        engine.start()


def test_job_threads_do_not_take_the_cores_from_the_network() -> None:
    model = model_of(Gated())
    with started(model) as engine:
        assert engine.submit(model, lambda net: torch.get_num_threads()).future.result(5) == 1


def test_an_evaluation_that_takes_no_time_does_not_end_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a coarse clock many do; the rate must not be divided by 0."""
    clock = types.SimpleNamespace(monotonic=lambda: 0.0, perf_counter=lambda: 0.0)
    monkeypatch.setattr("helpers.serving.engine.time", clock)
    model, engine = model_of(Gated()), Engine({}, threads=torch.get_num_threads())
    job = Job(model, steps(1), lambda result: result, 1, 1)
    one = _Evaluation(job, model.predict, (torch.zeros(1, 1),))
    batches = iter([[one], None])
    monkeypatch.setattr(engine, "_next_batch", lambda: next(batches))
    engine._work()
    assert one.done.is_set()
    assert [float(part) for part in one.answer] == [1.0]


def test_those_who_wait_know_how_many_are_before_them() -> None:
    network = Gated()
    model = model_of(network)
    with started(model, batch_images=4) as engine:
        network.gate.clear()
        jobs = [engine.submit(model, steps(1)) for _ in range(6)]
        assert [engine.before(job) for job in jobs] == [0, 0, 0, 0, 4, 5]
        network.gate.set()
        for job in jobs:
            job.future.result(5)
        assert engine.before(jobs[-1]) == 0
