"""What the benchmark scripts share: the networks, their cost, interleaved timing, and results on disk.

Cost is counted, never estimated: floating-point operations (FLOP, two for each multiply-add) of one image through the
network. A training step is taken to cost three times its forward pass, one for the gradient of the activations and one
for that of the weights, whatever a library really computes; the optimiser is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from helpers import diffusion, results, schedules, training, zoo
from helpers.nn import SimpleUNet, sinusoidal_embedding
from helpers.recipes import RECIPES

__all__ = [
    "MODELS",
    "OURS",
    "PATHS",
    "RESULTS",
    "SCHEDULE",
    "SHAPE",
    "Contender",
    "MatrixProduct",
    "RunPath",
    "Timings",
    "describe",
    "forward_flops",
    "images",
    "installed",
    "interleave",
    "machine",
    "positive",
    "read_json",
    "summary",
    "usable",
    "write_json",
]

RESULTS = Path(results.__file__).parent
SHAPE = (3, 32, 32)
OURS = "fast-unet"
TOLERANCE = 0.1
"""A peer's forward pass costs what ours costs, within this share of it."""

SCHEDULE = schedules.LinearSchedule(1000)
"""For networks that predict ε at discrete times."""


# --- networks


class Wrapped(nn.Module):
    """A peer's network, called as ``model(x_t, t)`` with answers of the shape of x_t.

    Args:
        network: The peer's.
        call: ``call(network, x, t)``.
    """

    def __init__(self, network: nn.Module, call: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.call = network, call

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, 3, 32, 32) and (B,) → (B, 3, 32, 32)."""
        return self.call(self.network, x, t)


def _fast_unet() -> nn.Module:
    return zoo.build(RECIPES["cifar10-edm"].architecture)


def _diffusers(**settings: Any) -> nn.Module:
    from diffusers import UNet2DModel

    return Wrapped(UNet2DModel(**settings), lambda network, x, t: network(x, t, return_dict=False)[0])


def _denoising_diffusion_pytorch(**settings: Any) -> nn.Module:
    from denoising_diffusion_pytorch import Unet

    return Wrapped(Unet(**settings), lambda network, x, t: network(x, t))


def _torchcfm(**settings: Any) -> nn.Module:
    from torchcfm.models.unet.unet import UNetModelWrapper

    return Wrapped(UNetModelWrapper(**settings), lambda network, x, t: network(t, x))


def _azula(**settings: Any) -> nn.Module:
    from azula.nn.unet import UNet

    width = settings["mod_features"]  # its time comes as an embedding, which is the caller's affair
    return Wrapped(UNet(3, 3, **settings), lambda network, x, t: network(x, sinusoidal_embedding(t, width).to(x.dtype)))


@dataclass(frozen=True)
class Contender:
    """A network to be timed.

    Attributes:
        name: In options and results.
        title: In tables.
        package: The distribution that it comes from, or None for this course.
        build: Makes it, with random weights, from ``settings``.
        settings: Its constructor's arguments.
        equal_flops: Whether its forward pass is to cost what ours costs.
        denoiser: True for D(x; σ, label) trained by the EDM loss; False for ε(x_t, t) trained by the plain ε loss.
    """

    name: str
    title: str
    package: str | None
    build: Callable[..., nn.Module]
    settings: Mapping[str, Any] = field(default_factory=dict)
    equal_flops: bool = True
    denoiser: bool = False

    def make(self, seed: int = 0) -> nn.Module:
        """The network; the global random state is left as it was.

        Raises:
            ModuleNotFoundError: If its package is not installed.
        """
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what other packages say about themselves when they are imported
            torch.manual_seed(seed)
            return self.build(**self.settings)

    def loss(self, model: nn.Module, x_0: Tensor, label: Tensor, generator: torch.Generator) -> Tensor:
        """The scalar that a training step minimises: x_0 (B, 3, 32, 32), label (B,)."""
        if self.denoiser:
            return diffusion.edm_loss(model, x_0, generator, label=label)
        return diffusion.simple_loss(model, x_0, SCHEDULE, generator)

    def evaluate(self, model: nn.Module, x: Tensor, label: Tensor) -> Tensor:
        """One evaluation of the network, at a middle noise level for every image."""
        if self.denoiser:
            return model(x, torch.ones(len(x)), label)
        return model(x, torch.full((len(x),), SCHEDULE.n_steps // 2))


_DOWN = ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D")
_UP = ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")

MODELS: dict[str, Contender] = {
    contender.name: contender
    for contender in (
        Contender(OURS, "this course's FastUNet", None, _fast_unet, denoiser=True),
        Contender(
            "diffusers",
            "diffusers UNet2DModel",
            "diffusers",
            _diffusers,
            {
                "sample_size": 32,
                "block_out_channels": (32, 96, 160),
                "layers_per_block": 1,
                "norm_num_groups": 8,
                "down_block_types": _DOWN,
                "up_block_types": _UP,
                "attention_head_dim": 32,
            },
        ),
        Contender(
            "denoising-diffusion-pytorch",
            "denoising-diffusion-pytorch Unet",
            "denoising-diffusion-pytorch",
            _denoising_diffusion_pytorch,
            {"dim": 32, "dim_mults": (1, 3, 5)},
        ),
        Contender(
            "torchcfm",
            "torchcfm UNetModelWrapper",
            "torchcfm",
            _torchcfm,
            {
                "dim": SHAPE,
                "num_res_blocks": 1,
                "num_channels": 32,
                "channel_mult": [1, 3, 5],
                "num_heads": 4,
                "num_head_channels": 32,
                "attention_resolutions": "8",
            },
        ),
        Contender(
            "azula",
            "azula UNet",
            "azula",
            _azula,
            {"hid_channels": (32, 96, 256), "hid_blocks": (1, 2, 2), "mod_features": 256, "norm": "group"},
        ),
        Contender("simple-unet", "the assignment's SimpleUNet", None, SimpleUNet, equal_flops=False),
    )
}
"""All networks by name, ours first. Of a few settings of the same cost, those of a peer's are the ones that trained
fastest in a short trial (bfloat16, one thread): fewer groups in normalisations, widths in multiples of 32."""


def installed(contender: Contender) -> str | None:
    """The version of the package that a network comes from; None if the package is missing."""
    try:
        return version(contender.package or "diffusion-ebm-course")
    except PackageNotFoundError:
        return None


def usable(names: Iterable[str]) -> tuple[list[Contender], dict[str, str]]:
    """The networks that can be made here, and why the others cannot.

    Raises:
        ValueError: For an unknown name, or if none is left.
    """
    chosen, skipped = [], {}
    for name in dict.fromkeys(names):
        if name not in MODELS:
            raise ValueError(f"expected models out of {', '.join(MODELS)}, got {name!r}")
        if installed(MODELS[name]) is None:
            skipped[name] = f"{MODELS[name].package} is not installed"
        else:
            chosen.append(MODELS[name])
    if not chosen:
        raise ValueError(f"expected a model that can be made here: {'; '.join(skipped.values()) or 'none was named'}")
    return chosen, skipped


def images(batch_size: int, channels_last: bool = False, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random images (B, 3, 32, 32) in [−1, 1] and labels (B,): what a step costs does not depend on what they show."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(batch_size, *SHAPE, generator=generator) * 2 - 1
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return x.contiguous(memory_format=layout), torch.randint(10, (batch_size,), generator=generator)


# --- how a network is run


@dataclass(frozen=True)
class RunPath:
    """Number type, memory layout and optimiser.

    Attributes:
        title: In tables.
        bfloat16: Whether matrix products run in bfloat16 (autocast), with weights in float32.
        channels_last: Whether images and weights lie in memory channel by channel of a pixel.
        fused: Whether AdamW updates all weights in one pass.
    """

    title: str
    bfloat16: bool
    channels_last: bool
    fused: bool

    def precision(self) -> AbstractContextManager[Any]:
        """The context to run the network in."""
        return torch.autocast("cpu", torch.bfloat16) if self.bfloat16 else nullcontext()

    def place(self, model: nn.Module) -> nn.Module:
        """The model in this memory layout."""
        return model.to(memory_format=torch.channels_last) if self.channels_last else model


PATHS: dict[str, RunPath] = {
    "bf16": RunPath("bfloat16, channels last", True, True, True),
    "fp32": RunPath("float32, as PyTorch has it by default", False, False, False),
    "fp32-channels-last": RunPath("float32, channels last", False, True, True),
}
"""``bf16`` is the fast path of the course's recipes, ``fp32`` what a program does that asks for nothing."""


# --- cost


def forward_flops(contender: Contender, model: nn.Module) -> int:
    """FLOP of one image through the network, counted by PyTorch; attention as the matrix products that it is."""
    x, label = images(1)
    was_training = model.training
    model.eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        contender.evaluate(model, x, label)
    model.train(was_training)
    return counter.get_total_flops()


def describe(contenders: Iterable[Contender]) -> dict[str, dict[str, Any]]:
    """For each network: title, package, version, settings, GFLOP of a forward pass, parameters, and share of our cost.

    Raises:
        ValueError: If one that is to cost what ours costs does not.
    """
    ours = forward_flops(MODELS[OURS], MODELS[OURS].make())
    described = {}
    for contender in contenders:
        model = contender.make()
        flops = forward_flops(contender, model)
        if contender.equal_flops and abs(flops / ours - 1) > TOLERANCE:
            raise ValueError(
                f"expected {contender.name} to cost {ours / 1e9:.3f} GFLOP ± {TOLERANCE:.0%}, got {flops / 1e9:.3f}: "
                "its package may have changed; choose other widths"
            )
        described[contender.name] = {
            "title": contender.title,
            "package": contender.package,
            "version": installed(contender),
            "settings": dict(contender.settings),
            "gflop": flops / 1e9,
            "of_ours": flops / ours,
            "equal_flops": contender.equal_flops,
            "parameters": sum(p.numel() for p in model.parameters()),
        }
    return described


class MatrixProduct:
    """The yardstick: how fast this machine multiplies square bfloat16 matrices, at this moment.

    Args:
        size: Rows and columns.
        seconds: How long to measure, at least.
    """

    def __init__(self, size: int = 2048, seconds: float = 0.3) -> None:
        generator = torch.Generator().manual_seed(0)
        self.a, self.b = (torch.randn(size, size, generator=generator).bfloat16() for _ in range(2))
        self.out = torch.empty_like(self.a)
        self.size, self.seconds = size, seconds
        self()

    def __call__(self) -> float:
        """FLOP a second."""
        begin, n = time.perf_counter(), 0
        while (taken := time.perf_counter() - begin) < self.seconds or n == 0:
            torch.mm(self.a, self.b, out=self.out)
            n += 1
        return 2 * self.size**3 * n / taken


# --- timing


@dataclass
class Timings:
    """What :func:`interleave` measured.

    Attributes:
        seconds: For each task, its time in each round.
        reference: For each task, the yardstick beside it in each round: the mean of just before and just after.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    reference: dict[str, list[float]] = field(default_factory=dict)


def interleave(
    tasks: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    reference: Callable[[], float] | None = None,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    after_round: Callable[[int, Timings], None] | None = None,
) -> Timings:
    """Time tasks in turn, round after round, so that whatever disturbs the machine disturbs all of them.

    Args:
        tasks: What to time, by name.
        rounds: How often each is timed.
        reference: Measures a yardstick between any two tasks, and before the first and after the last of a round.
        warm_up: How often each task runs untimed before the first round.
        clock: Seconds.
        after_round: Called with the number of rounds made and the timings so far.

    Raises:
        ValueError: If there is nothing to time, or fewer than one round.
    """
    if not tasks or rounds < 1 or warm_up < 0:
        raise ValueError(f"expected tasks, at least one round and warm_up >= 0, got {len(tasks)}, {rounds}, {warm_up}")
    for _ in range(warm_up):
        for task in tasks.values():
            task()
    timings = Timings({name: [] for name in tasks}, {name: [] for name in tasks} if reference else {})
    for done in range(1, rounds + 1):
        before = reference() if reference else 0.0
        for name, task in tasks.items():
            begin = clock()
            task()
            timings.seconds[name].append(clock() - begin)
            if reference:
                after = reference()
                timings.reference[name].append((before + after) / 2)
                before = after
        if after_round:
            after_round(done, timings)
    return timings


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles.

    Raises:
        ValueError: If there are no values.

    Example:
        >>> summary([3.0, 1.0, 2.0, 5.0, 4.0])
        {'median': 3.0, 'q1': 2.0, 'q3': 4.0}
    """
    if not values:
        raise ValueError("expected at least one value, got none")
    if len(values) == 1:
        return {"median": values[0], "q1": values[0], "q3": values[0]}
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3}


# --- the machine, options, files


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def machine() -> dict[str, Any]:
    """What the numbers depend on, and nothing that names the machine."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_at_start": load,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
    }


def positive(text: str) -> int:
    """An integer of at least 1, for :mod:`argparse`."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return value


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a whole file or nothing.

    Raises:
        OSError: If it cannot be written; what stood there before is kept.
    """
    training.write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """The content of a results file, or None where there is none.

    Raises:
        ValueError: If it cannot be read.
    """
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): remove it") from error
