"""The loop: draw a batch, take the gradient, step, average, keep."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .config import TrainingConfig
from .ema import EMA
from .optimizers import optimizer_of
from .processes import SingleProcess, from_main, gather_objects, reduce
from .run import Run, StopRequest

__all__ = ["LossFunction", "Start", "TrainingDiverged", "TrainingResult", "batches", "train"]

LossFunction = Callable[[nn.Module, Tensor, torch.Generator], Tensor]
"""``loss(model, batch, generator)``: a scalar to minimise; all its randomness comes from the generator.

A loss that remembers something from one step to the next, such as the chains of persistent contrastive divergence, has
``state_dict()`` and ``load_state_dict(state)`` for tensors by name, and goes into checkpoints with all the rest. One
that has ``report()``, a dictionary of numbers, adds them to each line of the log.
"""


OPTIMIZER_STATE = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")


class TrainingDiverged(RuntimeError):
    """The loss became infinite or NaN."""


@dataclass
class TrainingResult:
    """What :func:`train` gives back.

    Attributes:
        model: The model with its last weights (the object that was passed in).
        ema: The averaged model, or None where no average was asked for.
        losses: The loss of each step.
        grad_norms: The norm of the gradient of each step, before clipping.
        seconds: Time spent training, all sessions together.
    """

    model: nn.Module
    ema: nn.Module | None
    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def average(self) -> nn.Module:
        """What to sample with: the averaged model, or, where no average was asked for, the model itself."""
        return self.model if self.ema is None else self.ema


@dataclass(frozen=True)
class Start:
    """Where a training goes on that began in another one, whose optimiser is gone: a warm start.

    Attributes:
        ema: The average so far, a module like the one to be trained (which must hold the last raw weights itself).
        images_seen: How many images that average has followed.
    """

    ema: nn.Module
    images_seen: int


class Order:
    """The order in which examples are seen: endless batches of indices, each example once an epoch.

    Args:
        n: Number of examples.
        batch_size: Indices at a time; the remainder of an epoch opens the next.
        generator: Source of the randomness.

    Attributes:
        pool: The indices drawn and not yet used.
    """

    def __init__(self, n: int, batch_size: int, generator: torch.Generator) -> None:
        self.n, self.batch_size, self.generator = n, batch_size, generator
        self.pool = torch.empty(0, dtype=torch.long)

    def draw(self) -> Tensor:
        """The next indices, shape (batch_size,)."""
        while len(self.pool) < self.batch_size:
            self.pool = torch.cat([self.pool, torch.randperm(self.n, generator=self.generator)])
        drawn, self.pool = self.pool[: self.batch_size], self.pool[self.batch_size :]
        return drawn


def batches(data: Tensor, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches: each image once an epoch, in a new order; the remainder opens the next epoch."""
    order = Order(len(data), batch_size, generator)
    while True:
        yield data[order.draw()]


class Stream:
    """The random numbers of one part of each batch: a generator, and a state of the global one, which dropout uses."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        # From another seed: dropout must not draw the numbers that the loss draws.
        self.ambient = torch.Generator().manual_seed(seed + 500_000_003).get_state()

    @contextmanager
    def active(self, device: torch.device) -> Iterator[torch.Generator]:
        """The generator; inside, the global one goes on where this part left it, and is put back afterwards.

        Other devices than the CPU have a global generator of their own, which is seeded from this part's.
        """
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.ambient)
            if device.type != "cpu":
                getattr(torch, device.type).manual_seed(int(torch.randint(2**62, ())))
            yield self.generator
            self.ambient = torch.get_rng_state()

    def state(self) -> Tensor:
        """Both states, as bytes."""
        return torch.stack([self.generator.get_state(), self.ambient])

    def restore(self, state: Tensor) -> None:
        """Go on from what :meth:`state` gave."""
        self.generator.set_state(state[0])
        self.ambient = state[1].clone()


class _Trainer:
    """The state of a training, and the step that changes it."""

    def __init__(
        self,
        model: nn.Module,
        loss: LossFunction,
        data: Tensor,
        config: TrainingConfig,
        engine: Any,
        run: Run | None,
        start: Start | None,
        through: Callable[[nn.Module], nn.Module] | None,
    ) -> None:
        if config.n_parts % engine.num_processes:
            raise ValueError(f"expected n_parts divisible by {engine.num_processes} processes, got {config.n_parts}")
        if _remembers(loss) and engine.num_processes > 1:
            raise ValueError(f"expected one process for a loss with a state of its own, got {engine.num_processes}")
        if _averages_batches(model) and engine.num_processes > 1:
            raise ValueError(f"expected one process for a network with running averages, got {engine.num_processes}")
        self.loss, self.data, self.config, self.engine, self.run = loss, data, config, engine, run
        if config.channels_last:
            model.to(memory_format=torch.channels_last)
        self.wrapped = engine.prepare(_whole(model, through(model)) if through else model)
        self.ema = EMA(model, config.ema_half_life, config.ema_rampup) if config.ema_half_life else None
        if self.ema and start:
            self.ema.model.load_state_dict(start.ema.state_dict())
            self.ema.images_seen = start.images_seen
        self.optimizer = optimizer_of(model, config)
        own = range(engine.process_index, config.n_parts, engine.num_processes)
        self.streams = {part: Stream(config.seed + 1_000_003 * part) for part in own}
        # One part alone shares its stream with the order of the batches; several need an order that all of them know.
        self.order = Order(
            len(data),
            config.batch_size,
            self.streams[0].generator if config.n_parts == 1 else Stream(config.seed - 1).generator,
        )
        self.result = TrainingResult(model, self.ema.model if self.ema else None)
        self.step = self.first_step = 0
        if run:
            self._resume(run)

    def advance(self) -> None:
        """One update of the weights."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate_at(self.step)
        self.optimizer.zero_grad()
        value = self._accumulate(self.order.draw().chunk(self.config.n_parts))
        _check_finite(value, "loss", self.step)
        norm = nn.utils.clip_grad_norm_(self.result.model.parameters(), self.config.grad_clip or math.inf)
        _check_finite(norm, "norm of the gradient", self.step)
        if self.step == self.first_step:
            _check_shared(self.engine, norm)
        self.optimizer.step()
        self.step += 1
        if self.ema and self.step % self.config.ema_every == 0:
            self.ema.update(self.result.model, self.config.ema_every * self.config.batch_size)
        self.result.losses.append(value.item())
        self.result.grad_norms.append(norm.item())

    def _accumulate(self, parts: tuple[Tensor, ...]) -> Tensor:
        """Gradients of all parts, averaged; returns their mean loss."""
        total, last = torch.zeros((), dtype=torch.float64), max(self.streams)
        for part, stream in self.streams.items():
            sync = nullcontext() if part == last else self.engine.no_sync(self.wrapped)
            with sync, stream.active(self.device) as generator:
                with self._autocast():
                    value = self.loss(self.wrapped, self.data[parts[part]], generator)
                _check_scalar(value)
                self.engine.backward(value / len(self.streams) if len(self.streams) > 1 else value)
            total += value.detach().cpu() / len(self.streams)
        return reduce(self.engine, total, "mean")

    def _autocast(self) -> Any:
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.result.model.parameters()).device

    def save(self) -> None:
        """Write a checkpoint; all processes must call it, and the first one writes."""
        streams = gather_objects(self.engine, [(part, stream.state()) for part, stream in self.streams.items()])
        from_main(
            self.engine,
            lambda: self.run.save(self._tensors() | {f"stream.{part}": s for part, s in streams}, self._state()),
        )

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{key}": value for key, value in self.result.model.state_dict().items()}
        if self.ema:
            tensors |= {f"ema.{key}": value for key, value in self.ema.model.state_dict().items()}
        for name, parameter in self.result.model.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value
        if _remembers(self.loss):
            tensors |= {f"loss.{key}": value for key, value in self.loss.state_dict().items()}
        tensors["order.pool"] = self.order.pool
        tensors["order.generator"] = self.order.generator.get_state()
        tensors["history"] = torch.tensor([self.result.losses, self.result.grad_norms], dtype=torch.float64)
        return tensors

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "seconds": self.result.seconds,
            "ema_seen": self.ema.images_seen if self.ema else 0,
            "n_examples": len(self.data),
            "channels_last": self.config.channels_last,
        }

    def _resume(self, run: Run) -> None:
        loaded = from_main(self.engine, run.load)  # other machines need not see the folder
        if loaded:
            self._restore(run, *loaded)
        from_main(self.engine, lambda: run.tidy(self.step))

    def _restore(self, run: Run, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self._check_fits(run, tensors, state)

        def under(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        try:
            self.result.model.load_state_dict(under("model."))
            if self.ema:
                self.ema.model.load_state_dict(under("ema."))
            if (memory := under("loss.")) or _remembers(self.loss):
                self.loss.load_state_dict(memory)
        except RuntimeError as error:
            raise ValueError(f"{run.checkpoint} is of another network: {error}") from error
        for name, parameter in self.result.model.named_parameters():
            kept = {key: tensors.get(f"optimizer.{key}.{name}") for key in OPTIMIZER_STATE}
            kept = {key: self._placed(key, value, parameter) for key, value in kept.items() if value is not None}
            if kept:  # a parameter without a gradient has no state
                self.optimizer.state[parameter] = kept
        for part, stream in self.streams.items():
            stream.restore(tensors[f"stream.{part}"])
        self.order.generator.set_state(tensors["order.generator"])
        self.order.pool = tensors["order.pool"]
        if self.ema:
            self.ema.images_seen = state["ema_seen"]
        self.result.losses, self.result.grad_norms = tensors["history"].tolist()
        self.result.seconds, self.step = state["seconds"], state["step"]
        self.first_step = self.step

    def _placed(self, key: str, value: Tensor, parameter: Tensor) -> Tensor:
        """A piece of the optimiser's state where it is expected, in the memory layout of its parameter."""
        if key == "step":
            return value.to(parameter.device) if self.config.fused else value
        if key == "momentum_buffer":
            return value.to(parameter.device)
        return torch.empty_like(parameter, requires_grad=False).copy_(value)

    def _check_fits(self, run: Run, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """What the identity may have left out, and the state cannot do without."""
        wanted = {
            "n_parts": self.config.n_parts,
            "examples": len(self.data),
            "average of the weights": self.ema is not None,
            "optimizer": self.config.optimizer,
        }
        found = {
            "n_parts": sum(key.startswith("stream.") for key in tensors),
            "examples": state.get("n_examples", len(self.data)),
            "average of the weights": any(key.startswith("ema.") for key in tensors),
            "optimizer": _optimizer_in(tensors) or self.config.optimizer,
        }
        if self.config.optimizer == "muon":  # its momentum lies as the weights lie in memory
            wanted["channels_last"] = self.config.channels_last
            found["channels_last"] = state.get("channels_last", self.config.channels_last)
        run.check_same(wanted, found)
        memory = sorted(key for key in tensors if key.startswith("loss."))
        if memory and not hasattr(self.loss, "load_state_dict"):
            raise ValueError(
                f"{run.checkpoint} holds what a loss remembers ({', '.join(memory)}): expected a loss with "
                f"load_state_dict, got {type(self.loss).__name__}; give train the loss itself, not wrapped"
            )
        if state["step"] > self.config.n_steps:
            raise ValueError(
                f"{run.checkpoint} is at step {state['step']} already: expected n_steps at least as large, got "
                f"{self.config.n_steps}"
            )

    def log(self) -> None:
        """Add the mean of the last steps to the log."""
        n = (self.step - 1) % self.run.log_every + 1  # fewer at the end
        self.run.append_log(
            {
                "step": self.step,
                "images": self.step * self.config.batch_size,
                "loss": round(sum(self.result.losses[-n:]) / len(self.result.losses[-n:]), 6),
                "grad_norm": round(sum(self.result.grad_norms[-n:]) / len(self.result.grad_norms[-n:]), 4),
                "learning_rate": self.config.learning_rate_at(self.step - 1),
                "seconds": round(self.result.seconds, 1),
                **(self.loss.report() if hasattr(self.loss, "report") else {}),
            }
        )


def train(
    model: nn.Module,
    loss: LossFunction,
    data: Tensor,
    config: TrainingConfig,
    *,
    run: Run | None = None,
    start: Start | None = None,
    accelerator: Any = None,
    through: Callable[[nn.Module], nn.Module] | None = None,
    callback: Callable[[int, TrainingResult], None] | None = None,
    progress: bool = True,
) -> TrainingResult:
    """Train ``model`` in place.

    Args:
        model: The network, on the device of ``data``.
        loss: For example ``lambda model, x, g: simple_loss(model, x, schedule, g)``.
        data: All training examples (N, …), or their indices, for losses that fetch and prepare examples themselves.
        config: How to train.
        run: A folder for checkpoints and the log. If it holds a checkpoint, training goes on from it, and on a CPU the
            result is bit for bit that of an uninterrupted training. Ctrl-C and SIGTERM save the state of a complete
            step first; a second Ctrl-C does not wait.
        start: The average to go on from, for a warm start from finished weights; a checkpoint in ``run`` comes first.
        accelerator: From :func:`helpers.training.accelerator`: other devices, many processes. The loss must then move
            its batch to the device of the model, and call the model that it is given (which gathers the gradients of
            all processes), not one that it remembers.
        through: Which module inside the model the loss is given, for a loss that does not call the model itself: for
            example ``lambda energy: energy.denoiser``. It must hold all the weights.
        callback: Called after each update with its number, from 1, and the result so far.
        progress: Whether to show a progress bar (the environment variable ``TQDM_DISABLE=1`` hides it).

    Returns:
        The result, with the averaged model and the history.

    Raises:
        ValueError: If there is no data, the loss is not a scalar, the checkpoint is of another training or beyond
            ``n_steps``, or another process trains in the folder of ``run``; if ``n_parts`` is not divisible by the
            number of processes, or a loss with a state or a network with running averages meets several processes; if
            ``through`` does not hold all weights, or processes get different gradients.
        TrainingDiverged: If a loss or its gradient is not finite; the weights are those before the bad step.
        KeyboardInterrupt: If it was asked to stop; with a ``run``, after the state was saved.
        OSError: If a checkpoint cannot be written; the last good one is kept.
    """
    if len(data) == 0:
        raise ValueError("expected at least one training example, got none")
    engine = accelerator or SingleProcess()
    with _alone_in(run, engine):
        trainer = _Trainer(model, loss, data, config, engine, run, start, through)
        model.train()
        _loop(trainer, run, callback, progress and engine.is_main_process)
    if trainer.ema and trainer.ema.images_seen == 0:  # fewer steps than ema_every: else it would be the random start
        trainer.ema.update(model, trainer.step * config.batch_size)
    model.eval()
    return trainer.result


@contextmanager
def _alone_in(run: Run | None, engine: Any) -> Iterator[None]:
    """The folder of a run held by its main process, which alone writes there."""
    if run is None:
        yield
        return
    from_main(engine, run.acquire)
    try:
        yield
    finally:
        run.release()


def _loop(
    trainer: _Trainer, run: Run | None, callback: Callable[[int, TrainingResult], None] | None, shown: bool
) -> None:
    """All steps that are left."""
    config, hidden = trainer.config, {} if shown else {"disable": True}  # a plain False would overrule TQDM_DISABLE
    stop = StopRequest()
    with (
        stop.watching() if run else nullcontext(),
        tqdm(total=config.n_steps, initial=trainer.step, desc="training", **hidden) as bar,
    ):
        while trainer.step < config.n_steps:
            began = time.perf_counter()
            trainer.advance()
            trainer.result.seconds += time.perf_counter() - began
            bar.update()
            if trainer.step % 20 == 1:
                bar.set_postfix(loss=f"{trainer.result.losses[-1]:.4f}")
            if callback:
                callback(trainer.step, trainer.result)
            if run:
                _keep(trainer, run, stop)
    if stop.received:  # after the last step was saved
        raise KeyboardInterrupt


def _keep(trainer: _Trainer, run: Run, stop: StopRequest) -> None:
    """Log and save when it is time, at the end, and when asked to stop."""
    engine, at_end = trainer.engine, trainer.step == trainer.config.n_steps
    if trainer.step % run.log_every == 0 or at_end:
        from_main(engine, trainer.log)
    due = engine.is_main_process and run.is_due()  # only its clock knows of the last checkpoint
    due, stopped = reduce(engine, torch.tensor([float(due), float(stop.received)]), "max").bool().tolist()
    if due or stopped or at_end:
        trainer.save()
    if stopped:
        raise KeyboardInterrupt


def _whole(model: nn.Module, inside: nn.Module) -> nn.Module:
    """``inside``, if it holds all that there is to train in ``model``."""
    held = set(inside.parameters())
    if outside := [name for name, parameter in model.named_parameters() if parameter not in held]:
        raise ValueError(f"expected all weights inside the module that the loss is given, got {outside[0]} outside")
    return inside


def _optimizer_in(tensors: Mapping[str, Tensor]) -> str | None:
    """Whose state a checkpoint holds; None before the first step."""
    kinds = {key.split(".")[1] for key in tensors if key.startswith("optimizer.")}
    return ("muon" if "momentum_buffer" in kinds else "adamw") if kinds else None


def _remembers(loss: LossFunction) -> bool:
    return hasattr(loss, "load_state_dict") and bool(loss.state_dict())


def _averages_batches(model: nn.Module) -> bool:
    """Whether it has batch normalisations, whose averages each process would make of its own part of a batch."""
    kind = nn.modules.batchnorm._NormBase
    return any(isinstance(module, kind) and module.track_running_stats for module in model.modules())


def _check_scalar(value: Tensor) -> None:
    if not isinstance(value, Tensor) or value.ndim != 0:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"expected the loss to be a scalar tensor, got {got}: take its mean")


def _check_shared(engine: Any, norm: Tensor) -> None:
    """After gradients were averaged over the processes, their norm is the same everywhere."""
    if engine.num_processes == 1:
        return
    largest, smallest = reduce(engine, torch.stack([norm.detach(), -norm.detach()]), "max").abs().tolist()
    if largest - smallest > 1e-3 * largest:
        raise ValueError(
            f"expected the same gradient in all processes, got norms from {smallest:.6g} to {largest:.6g}: "
            "the loss must call the model that it is given, not one that it remembers"
        )


def _check_finite(value: Tensor, name: str, step: int) -> None:
    if not torch.isfinite(value):
        raise TrainingDiverged(
            f"the {name} is {value.item()} at step {step + 1}: lower the learning rate, or check the data for NaN"
        )
