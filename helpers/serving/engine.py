"""Work on models: many requests, one network, shared evaluations.

A request's sampler runs as it does everywhere, a plain loop in a thread of its own, with its own noise and its own
state. Only the network is shared: what the loop calls is a stand-in (:class:`Shared`) that hands its pictures over and
waits. One thread collects what all loops have handed over, evaluates the network once for all of them, and hands the
answers back. So

* requests of one model are batched whatever their steps, samplers and guidance are, since a network is told the noise
  level of each picture; a new request joins at the next evaluation, and nobody waits for anybody's last step;
* a request alone is evaluated at once: an evaluation waits, a few milliseconds at most, only for those who are on their
  way to the next one;
* a request that is cancelled leaves at its next evaluation, and its slot is free;
* the pictures are those of the same loop anywhere else, up to the rounding of a product of matrices of another size.

At most ``batch_images`` pictures are at work at a time, further requests wait in a queue of bounded length, first come,
first served. Threads, not tasks: the event loop never waits for a network.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .catalogue import ServedModel
from .metrics import Metrics

__all__ = ["Cancelled", "Draining", "Engine", "Job", "QueueFull", "Shared"]

ENCODERS = 2  # threads beside those that sample: a finished request is written out while the next one samples


class QueueFull(Exception):
    """No place in the queue.

    Attributes:
        waiting: How many requests wait.
        retry_after: Seconds until it is worth while to ask again.
    """

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"{waiting} requests are waiting")
        self.waiting, self.retry_after = waiting, retry_after


class Draining(Exception):
    """The service finishes what it has begun, and begins nothing new."""


class Cancelled(Exception):
    """Nobody waits for this work any more."""


@dataclass(eq=False)
class Job:
    """A piece of work.

    Attributes:
        model: Whose network it needs.
        sample: ``sample(network)``: runs with the shared network.
        finish: ``finish(result of sample)``: what is left to do when the network is no longer needed.
        images: How many pictures it has at work.
        work: How many pictures it will have evaluated in all, about.
        future: Of what ``finish`` gives.
        cancelled: Whether nobody waits for it any more.
        running: Whether it has begun.
    """

    model: ServedModel
    sample: Callable[[Shared], Any]
    finish: Callable[[Any], Any]
    images: int
    work: int
    future: Future[Any] = field(default_factory=Future)
    cancelled: bool = False
    running: bool = False


@dataclass(eq=False)
class _Evaluation:
    """One call of a network: pictures handed over, and the answer when ``done`` is set."""

    job: Job
    function: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    since: float = field(default_factory=time.monotonic)
    done: threading.Event = field(default_factory=threading.Event)
    answer: tuple[Tensor, ...] = ()
    error: BaseException | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """Evaluations with the same key can be made together."""
        return self.job.model.name, self.function.__name__, [(x.dtype, x.shape[1:]) for x in self.inputs]


class Shared:
    """A job's way to the network: what samplers get as ``model``, ``denoiser`` or ``energy``.

    Args:
        engine: Whose thread evaluates.
        job: On whose behalf.

    Attributes:
        watch: Called with the inputs of each evaluation before it is made, for example to show them; or None.
    """

    def __init__(self, engine: Engine, job: Job) -> None:
        self._engine, self._job = engine, job
        self.watch: Callable[..., None] | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """A diffusion model's prediction, or energies (B,), which can be differentiated by their input.

        Raises:
            Cancelled: If nobody waits for this work any more.
        """
        if self.watch is not None:
            self.watch(*inputs)
        if self._job.model.energy is None or len(inputs) > 1:  # a noise level beside the picture asks for a denoiser
            return self._ask(self._job.model.predict, *inputs)[0]
        if torch.is_grad_enabled() and inputs[0].requires_grad:
            return _Differentiable.apply(inputs[0], self)
        return self._ask(self._job.model.energies, *inputs)[0]

    def with_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (B,) and their gradients, in one evaluation."""
        energies, gradients = self._ask(self._job.model.energies_and_gradients, x)
        return energies, gradients

    def _ask(self, function: Callable[..., Any], *inputs: Tensor) -> tuple[Tensor, ...]:
        evaluation = _Evaluation(self._job, function, inputs)
        self._engine.hand_over(evaluation)
        evaluation.done.wait()
        if evaluation.error is not None:
            raise evaluation.error
        return evaluation.answer


class _Differentiable(torch.autograd.Function):
    """Energies whose gradient was found in the same evaluation, by the thread that has the network."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shared: Shared) -> Tensor:
        energies, gradients = shared.with_gradient(x.detach())
        ctx.save_for_backward(gradients)
        return energies

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:
        (gradients,) = ctx.saved_tensors
        return outer.reshape(-1, *[1] * (gradients.ndim - 1)) * gradients, None


class Engine:
    """Runs jobs.

    Args:
        models: By name.
        batch_images: Pictures at work at a time, and in one evaluation.
        batch_wait: Seconds that an evaluation waits for others to join.
        queue_size: Jobs that may wait.
        threads: Threads of the network; None leaves torch's choice.
        metrics: Where to count.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        *,
        batch_images: int = 16,
        batch_wait: float = 0.005,
        queue_size: int = 64,
        threads: int | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.models = dict(models)
        self.metrics = metrics or Metrics()
        self._capacity, self._patience, self._queue_size = batch_images, batch_wait, queue_size
        self._threads = threads or torch.get_num_threads()
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._sampling: set[Job] = set()  # they hold a slot
        self._finishing: set[Job] = set()  # they write out their result
        self._handed_over: list[_Evaluation] = []
        self._rate = 0.0  # pictures evaluated a second, lately
        self._accepting = self._stopping = False
        self._worker: threading.Thread | None = None
        self._pool: ThreadPoolExecutor | None = None

    # ── from outside ──────────────────────────────────────────────────────

    @property
    def alive(self) -> bool:
        """Whether the thread that evaluates is there."""
        return self._worker is not None and self._worker.is_alive()

    @property
    def ready(self) -> bool:
        """Whether new work is welcome."""
        return self.alive and self._accepting

    @property
    def n_running(self) -> int:
        """Jobs being worked on."""
        return len(self._sampling) + len(self._finishing)

    @property
    def n_waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._waiting)

    def start(self) -> None:
        """Start the threads.

        Raises:
            RuntimeError: If they were started before.
        """
        if self._worker is not None:
            raise RuntimeError("expected an engine that was never started: make a new one")
        # Solvers do small sums: with threads of their own they would only get into each other's way. What a thread
        # sets holds for it; the worker comes last, since some libraries keep one number for all.
        n_threads = self._capacity + ENCODERS
        self._pool = ThreadPoolExecutor(
            n_threads, thread_name_prefix="job", initializer=torch.set_num_threads, initargs=(1,)
        )
        begun = threading.Barrier(n_threads + 1)
        for _ in range(n_threads):
            self._pool.submit(begun.wait)
        begun.wait()
        self._worker = threading.Thread(target=self._work, name="evaluations", daemon=True)
        self._accepting = True
        self._worker.start()

    def submit(
        self,
        model: ServedModel,
        sample: Callable[[Shared], Any],
        finish: Callable[[Any], Any] = lambda result: result,
        *,
        images: int = 1,
        work: int = 1,
    ) -> Job:
        """Hand in work; it begins at once if there is a slot, and else waits in the queue.

        Args:
            model: Whose network it needs.
            sample: Runs in a thread with the shared network.
            finish: Runs in a thread with what ``sample`` gave.
            images: Pictures at work.
            work: Pictures that will be evaluated in all, about; to estimate times.

        Returns:
            The job, whose ``future`` gives what ``finish`` returns.

        Raises:
            QueueFull: If there is no place.
            Draining: If the engine is about to stop.
        """
        job = Job(model, sample, finish, min(images, self._capacity), work)
        with self._changed:
            if not self._accepting:
                raise Draining
            if not self._has_room_for(job) and len(self._waiting) >= self._queue_size:
                self.metrics.jobs.labels("refused").inc()
                raise QueueFull(len(self._waiting), self._seconds_to_wait())
            self._waiting.append(job)
            self._begin_waiting()
        return job

    def before(self, job: Job) -> int:
        """How many jobs sample, or wait before this one; 0 if it has begun."""
        with self._changed:
            return len(self._sampling) + self._waiting.index(job) if job in self._waiting else 0

    def cancel(self, job: Job) -> None:
        """Let go of a job: at once if it waits, at its next evaluation if it runs; no effect if it is done."""
        with self._changed:
            if job.cancelled or job.future.done():
                return
            job.cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)
                self._count_jobs()
                self.metrics.jobs.labels("cancelled").inc()
                job.future.cancel()
            for evaluation in [e for e in self._handed_over if e.job is job]:
                self._handed_over.remove(evaluation)
                evaluation.error = Cancelled()
                evaluation.done.set()
            self._changed.notify_all()

    def cancel_all(self) -> None:
        """Begin nothing new, let go of all work, and tell those who wait for it now, not after an evaluation."""
        self.drain()
        with self._changed:
            jobs = [*self._waiting, *self._sampling, *self._finishing]
        for job in jobs:
            self.cancel(job)
        for job in jobs:
            with contextlib.suppress(InvalidStateError):  # it has been done in the meantime
                job.future.set_exception(Cancelled())

    def drain(self) -> None:
        """Begin nothing new. Safe to call from a signal handler: it takes no lock."""
        self._accepting = False

    def close(self, timeout: float = 0.0) -> bool:
        """Drain, wait up to ``timeout`` seconds for what has begun or waits, cancel the rest, and stop the threads.

        Returns:
            Whether all work was done.
        """
        self.drain()
        with self._changed:
            done = self._changed.wait_for(lambda: not (self._waiting or self.n_running), timeout)
        self.cancel_all()
        if self._pool is not None:
            self._pool.shutdown(wait=True)
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._worker is not None:
            self._worker.join()
        return done

    def hand_over(self, evaluation: _Evaluation) -> None:
        """Queue an evaluation.

        Raises:
            Cancelled: If nobody waits for it any more.
        """
        with self._changed:
            if evaluation.job.cancelled:
                raise Cancelled
            self._handed_over.append(evaluation)
            self._changed.notify_all()

    # ── slots ─────────────────────────────────────────────────────────────

    def _has_room_for(self, job: Job) -> bool:
        at_work = sum(other.images for other in self._sampling)
        return not self._waiting and (not at_work or at_work + job.images <= self._capacity)

    def _begin_waiting(self) -> None:
        """Start jobs, oldest first, while there are slots; the lock is held."""
        at_work = sum(job.images for job in self._sampling)
        while self._waiting and (not at_work or at_work + self._waiting[0].images <= self._capacity):
            job = self._waiting.popleft()
            if not job.future.set_running_or_notify_cancel():
                continue
            at_work += job.images
            job.running = True
            self._sampling.add(job)
            self._pool.submit(self._run, job)
        self._count_jobs()

    def _count_jobs(self) -> None:
        self.metrics.waiting.set(len(self._waiting))
        self.metrics.running.set(self.n_running)

    def _run(self, job: Job) -> None:
        """In a job's own thread: sample, free the slot, finish."""
        try:
            try:
                result = job.sample(Shared(self, job))
            finally:
                self._move(job, self._sampling, self._finishing)
            outcome, give = "done", (job.future.set_result, job.finish(result))
        except Cancelled as error:
            outcome, give = "cancelled", (job.future.set_exception, error)
        except BaseException as error:  # a thread that died silently would leave the request waiting for ever
            outcome, give = "failed", (job.future.set_exception, error)
        self._move(job, self._finishing, None)
        self.metrics.jobs.labels("cancelled" if job.cancelled else outcome).inc()
        with contextlib.suppress(InvalidStateError):  # those who waited have been told that it was cancelled
            give[0](give[1])

    def _move(self, job: Job, out_of: set[Job], into: set[Job] | None) -> None:
        with self._changed:
            out_of.discard(job)
            if into is not None:
                into.add(job)
            self._begin_waiting()
            self._changed.notify_all()

    def _seconds_to_wait(self) -> int:
        """Until the queue has moved by about a half; the lock is held."""
        left = sum(job.work for job in (*self._waiting, *self._sampling))
        return min(max(1, math.ceil(left / 2 / self._rate if self._rate else 1)), 120)

    # ── evaluations ───────────────────────────────────────────────────────

    def _work(self) -> None:
        """In the one thread that evaluates networks."""
        torch.set_num_threads(self._threads)
        while (batch := self._next_batch()) is not None:
            start = time.perf_counter()
            try:
                self._evaluate(batch)
            except BaseException as error:  # the waiting jobs are told, and the thread goes on
                for evaluation in batch:
                    evaluation.error = error
            # A coarse clock may not have moved.
            n, seconds = sum(len(e.inputs[0]) for e in batch), max(time.perf_counter() - start, 1e-9)
            self._rate = n / seconds if not self._rate else 0.95 * self._rate + 0.05 * n / seconds
            self.metrics.batch.observe(n)
            self.metrics.evaluation.labels(batch[0].job.model.name).observe(seconds)
            for evaluation in batch:
                evaluation.done.set()

    def _next_batch(self) -> list[_Evaluation] | None:
        """What to evaluate next, as soon as waiting longer would not help; None at the end."""
        with self._changed:
            while True:
                if self._handed_over:
                    oldest = self._handed_over[0]
                    batch, full = self._joinable(oldest)
                    on_their_way = sum(job.model is oldest.job.model for job in self._sampling) - len(batch)
                    left = oldest.since + self._patience - time.monotonic()
                    if full or on_their_way <= 0 or left <= 0:
                        self._handed_over = [e for e in self._handed_over if e not in batch]
                        return batch
                    self._changed.wait(left)
                elif self._stopping:
                    return None
                else:
                    self._changed.wait()

    def _joinable(self, oldest: _Evaluation) -> tuple[list[_Evaluation], bool]:
        """Evaluations that can be made together with the oldest one, and whether they fill a batch."""
        batch, n = [], 0
        for evaluation in self._handed_over:
            if evaluation.key == oldest.key:
                batch.append(evaluation)
                n += len(evaluation.inputs[0])
                if n >= self._capacity:
                    return batch, True
        return batch, False

    def _evaluate(self, batch: list[_Evaluation]) -> None:
        """Fill in the answers, in parts of at most ``batch_images`` pictures."""
        inputs = [torch.cat(parts) for parts in zip(*(e.inputs for e in batch), strict=True)]
        answers = []
        for part in zip(*(tensor.split(self._capacity) for tensor in inputs), strict=True):
            answer = batch[0].function(*part)
            answers.append(answer if isinstance(answer, tuple) else (answer,))
        outputs = [torch.cat(parts) for parts in zip(*answers, strict=True)]
        sizes = [len(e.inputs[0]) for e in batch]
        for evaluation, *parts in zip(batch, *(tensor.split(sizes) for tensor in outputs), strict=True):
            evaluation.answer = tuple(parts)
