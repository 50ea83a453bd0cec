r"""One loop that trains every model: AdamW, exponential moving average, clipping, history, files.

The average of the weights (Polyak & Juditsky 1992; for diffusion Ho et al. 2020, appendix B) is

.. math:: \bar\theta \leftarrow a\,\bar\theta + (1 - a)\,\theta, \qquad a = 2^{-\text{batch}/\text{half-life}},

with the half-life counted in images and, early on, limited to a share of the images seen so far
(Karras et al. 2022, arXiv:2206.00364, appendix F), so that the random start is forgotten.

All randomness comes from ``TrainingConfig.seed``: on a CPU, the same seed gives the same weights.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor, nn
from tqdm import tqdm

__all__ = [
    "EMA",
    "LossFunction",
    "TrainingConfig",
    "TrainingDiverged",
    "TrainingResult",
    "load_checkpoint",
    "save_checkpoint",
    "sha256",
    "train",
    "write_atomically",
]

LossFunction = Callable[[nn.Module, Tensor, torch.Generator], Tensor]
"""``loss(model, batch, generator)``: a scalar to minimise; all its randomness comes from the generator."""


class TrainingDiverged(RuntimeError):
    """The loss became infinite or NaN."""


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes:
        n_steps: Updates of the weights.
        batch_size: Images an update.
        learning_rate: Peak rate of AdamW.
        warmup_steps: Steps over which the rate rises linearly from 0.
        decay: What the rate does afterwards: ``"constant"``, or ``"cosine"`` down to 0 at the end.
        betas: AdamW's (β₁, β₂).
        weight_decay: AdamW's decoupled weight decay.
        grad_clip: Largest norm of the gradient, or None.
        ema_half_life: Half-life of the average in images, or None for no average.
        ema_rampup: The half-life is at most this share of the images seen so far.
        seed: Of batches, noise and dropout.

    Raises:
        ValueError: For a value that makes no sense (which one, and what was expected).
    """

    n_steps: int
    batch_size: int = 128
    learning_rate: float = 2e-4
    warmup_steps: int = 0
    decay: Literal["constant", "cosine"] = "constant"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    grad_clip: float | None = 1.0
    ema_half_life: float | None = 20_000
    ema_rampup: float = 0.1
    seed: int = 42

    def __post_init__(self) -> None:
        for name in ("n_steps", "batch_size", "warmup_steps"):
            value, lowest = getattr(self, name), int(name != "warmup_steps")
            if not isinstance(value, int) or value < lowest:
                raise ValueError(f"expected {name} to be an integer >= {lowest}, got {value!r}")
        for name in ("learning_rate", "grad_clip", "ema_half_life", "ema_rampup"):
            value, optional = getattr(self, name), name in ("grad_clip", "ema_half_life")
            if not (optional if value is None else 0 < value < math.inf):
                raise ValueError(f"expected {name} > 0{' or None' if optional else ''}, got {value}")
        if not self.weight_decay >= 0:
            raise ValueError(f"expected weight_decay >= 0, got {self.weight_decay}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"expected betas in [0, 1), got {self.betas}")
        if self.warmup_steps > self.n_steps:
            raise ValueError(f"expected warmup_steps from 0 to n_steps = {self.n_steps}, got {self.warmup_steps}")
        if self.decay not in ("constant", "cosine"):
            raise ValueError(f"expected decay 'constant' or 'cosine', got {self.decay!r}")

    def learning_rate_at(self, step: int) -> float:
        """The rate of update number ``step``, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.decay == "constant":
            return self.learning_rate
        progress = (step - self.warmup_steps) / max(self.n_steps - self.warmup_steps, 1)
        return self.learning_rate * (1 + math.cos(math.pi * progress)) / 2


class EMA:
    """The exponential moving average of a model's weights.

    Args:
        model: The model to follow; it is copied, not changed.
        half_life: In images.
        rampup: The half-life is at most this share of the images seen.

    Attributes:
        model: The averaged model, in evaluation mode, without gradients.
        images_seen: How many images the average has followed.
    """

    def __init__(self, model: nn.Module, half_life: float = 20_000, rampup: float = 0.1) -> None:
        if not (half_life > 0 and rampup > 0):
            raise ValueError(f"expected half_life and rampup > 0, got {half_life} and {rampup}")
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.half_life = half_life
        self.rampup = rampup
        self.images_seen = 0

    def decay(self, n_images: int) -> float:
        """The factor a of the old average for the next ``n_images`` images."""
        half_life = min(self.half_life, self.rampup * (self.images_seen + n_images))
        return 0.5 ** (n_images / half_life)

    @torch.no_grad()
    def update(self, model: nn.Module, n_images: int) -> None:
        """Move the average towards ``model`` after an update that saw ``n_images`` images; buffers are copied."""
        decay = self.decay(n_images)
        self.images_seen += n_images
        for average, current in zip(self.model.parameters(), model.parameters(), strict=True):
            average.lerp_(current.detach(), 1 - decay)
        for average, current in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(current)


@dataclass
class TrainingResult:
    """What :func:`train` gives back.

    Attributes:
        model: The model with its last weights (the object that was passed in).
        ema: The averaged model, or None where no average was asked for.
        losses: The loss of each step.
        grad_norms: The norm of the gradient of each step, before clipping.
    """

    model: nn.Module
    ema: nn.Module | None
    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)


def batches(data: Tensor, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches: each image once an epoch, in a new order; the remainder opens the next epoch."""
    pool = torch.empty(0, dtype=torch.long)
    while True:
        while len(pool) < batch_size:
            pool = torch.cat([pool, torch.randperm(len(data), generator=generator)])
        yield data[pool[:batch_size]]
        pool = pool[batch_size:]


@contextmanager
def _seeded(seed: int) -> Iterator[torch.Generator]:
    """A generator, and the global generator (dropout has no other) seeded inside and put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)


def train(
    model: nn.Module,
    loss: LossFunction,
    data: Tensor,
    config: TrainingConfig,
    *,
    callback: Callable[[int, TrainingResult], None] | None = None,
    progress: bool = True,
) -> TrainingResult:
    """Train ``model`` in place.

    Args:
        model: The network, on the device of ``data``.
        loss: For example ``lambda model, x, g: simple_loss(model, x, schedule, g)``.
        data: All training examples (N, …).
        config: How to train.
        callback: Called after each update with its number, from 1, and the result so far.
        progress: Whether to show a progress bar (the environment variable ``TQDM_DISABLE=1`` hides it).

    Returns:
        The result, with the averaged model and the history.

    Raises:
        ValueError: If there is no data or the loss is not a scalar.
        TrainingDiverged: If a loss or its gradient is not finite; the weights are those before the bad step.
    """
    if len(data) == 0:
        raise ValueError("expected at least one training example, got none")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    ema = EMA(model, config.ema_half_life, config.ema_rampup) if config.ema_half_life else None
    result = TrainingResult(model, ema.model if ema else None)
    model.train()
    hidden = {} if progress else {"disable": True}  # an explicit False would overrule TQDM_DISABLE
    with _seeded(config.seed) as generator, tqdm(total=config.n_steps, desc="training", **hidden) as bar:
        for step, batch in zip(range(config.n_steps), batches(data, config.batch_size, generator), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate_at(step)
            value = loss(model, batch, generator)
            _check_scalar(value)
            _check_finite(value, "loss", step)
            optimizer.zero_grad()
            value.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip or math.inf)
            _check_finite(norm, "norm of the gradient", step)
            optimizer.step()
            if ema:
                ema.update(model, len(batch))
            result.losses.append(value.item())
            result.grad_norms.append(norm.item())
            bar.update()
            if step % 20 == 0:
                bar.set_postfix(loss=f"{value.item():.4f}")
            if callback:
                callback(step + 1, result)
    model.eval()
    return result


def _check_scalar(value: Tensor) -> None:
    if not isinstance(value, Tensor) or value.ndim != 0:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"expected the loss to be a scalar tensor, got {got}: take its mean")


def _check_finite(value: Tensor, name: str, step: int) -> None:
    if not torch.isfinite(value):
        raise TrainingDiverged(
            f"the {name} is {value.item()} at step {step + 1}: lower the learning rate, or check the data for NaN"
        )


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file or nothing: a temporary neighbour first, then one rename.

    Raises:
        OSError: If it cannot be written; what stood there before is kept.
    """
    _write_together({path: content})


def _write_together(files: Mapping[Path, bytes]) -> None:
    """All temporary neighbours first, where a full disk shows, and then only renames."""
    temporaries: list[Path] = []
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            temporaries.append(Path(name))
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
        for temporary, path in zip(temporaries, files, strict=True):
            os.replace(temporary, path)
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


def save_checkpoint(path: str | Path, weights: Mapping[str, nn.Module], info: Mapping[str, Any]) -> Path:
    """Save models as one safetensors file, with a JSON file of the same name beside it.

    Args:
        path: The ``.safetensors`` file.
        weights: Name → module, e.g. ``{"model": model, "ema": result.ema}``.
        info: Anything JSON can hold: recipe, losses, metrics. The weights' hash is added as ``"sha256"``.

    Returns:
        The path.

    Raises:
        ValueError: If ``path`` does not end in ``.safetensors``, a name holds a dot, or ``info`` is not JSON.
        OSError: If it cannot be written; what stood there before is kept.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"expected a path that ends in .safetensors, got {path.name}")
    if any("." in name for name in weights):
        raise ValueError(f"expected names without dots, got {', '.join(weights)}")
    tensors = {
        f"{name}.{key}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, module in weights.items()
        for key, value in module.state_dict().items()
    }
    content = safetensors.torch.save(tensors)
    try:
        text = json.dumps({**info, "sha256": hashlib.sha256(content).hexdigest()}, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected info that JSON can hold: {error}") from error
    _write_together({path: content, path.with_suffix(".json"): (text + "\n").encode()})
    return path


def load_checkpoint(path: str | Path, models: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Load what :func:`save_checkpoint` saved, after checking that both files belong together.

    Args:
        path: The ``.safetensors`` file.
        models: Name → module to fill; names that are in the file but not here are skipped.

    Returns:
        The JSON file's content.

    Raises:
        FileNotFoundError: If one of the two files is missing.
        ValueError: If the JSON file cannot be read, the hash does not fit, a name is missing, or the weights do not fit
            the module.
    """
    path = Path(path)
    for file in (path, path.with_suffix(".json")):
        if not file.is_file():
            raise FileNotFoundError(f"no checkpoint at {file}")
    try:
        info = json.loads(path.with_suffix(".json").read_text("utf-8"))
        expected = info["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.stem}.json does not describe a checkpoint ({error!r}): get both files anew") from error
    if sha256(path) != expected:
        raise ValueError(
            f"{path.name} is not the file that {path.stem}.json describes (SHA-256 differs): get both anew"
        )
    tensors = safetensors.torch.load_file(path)
    for name, module in models.items():
        prefix = f"{name}."
        state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if not state:
            held = sorted({key.split(".")[0] for key in tensors})
            raise ValueError(f"expected weights named {name!r} in {path.name}, found {', '.join(held)}")
        try:
            module.load_state_dict(state)  # casts to each parameter's own dtype
        except RuntimeError as error:
            raise ValueError(f"{path.name} does not fit this {type(module).__name__}: {error}") from error
    return info
