"""How fast networks are evaluated, and what the loop around them costs.

Three measurements, each with its tasks in turn, round after round in one process::

    python benchmarks/sampling.py --rounds 5

* ``network``: one evaluation without gradients, images a second by batch size;
* ``sample``: a whole sample of 10 and of 18 evaluations, with this course's samplers and with a loop over a scheduler
  of diffusers, around the same network: one of this course's, unless ``--sample-models`` names others, for what another
  network costs is known from its evaluations;
* ``loop``: the same loops around a network that does nothing.

Results go to ``helpers/results/sampling.json``; ``python benchmarks/table.py`` makes the book's tables of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from common import (
    MODELS,
    PATHS,
    RESULTS,
    SCHEDULE,
    Contender,
    MatrixProduct,
    Timings,
    describe,
    images,
    interleave,
    machine,
    positive,
    summary,
    usable,
    write_json,
)
from torch import Tensor, nn

from helpers import samplers, schedules
from helpers.diffusion import EDMPrecond

__all__ = ["LOOPS", "SECTIONS", "IdleNetwork", "loops_for", "main"]

SECTIONS = ("network", "sample", "loop")
Loop = Callable[[nn.Module, Tensor, Tensor, int], Tensor]
"""``loop(model, noise, label, n_evaluations) -> images``."""


class IdleNetwork(nn.Module):
    """Answers with its input at once, so that a loop around it shows its own time.

    Attributes:
        calls: How often it was asked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """``x``."""
        self.calls += 1
        return x


# --- loops around a denoiser D(x; σ)


def _own(solver: samplers.Solver) -> Loop:
    def loop(model: nn.Module, noise: Tensor, label: Tensor, n: int) -> Tensor:
        sigmas = schedules.append_zero(schedules.karras_sigmas(n))
        return samplers.sample_ode(model, solver, noise * sigmas[0].item(), sigmas, label=label)

    return loop


@torch.no_grad()
def diffusers_dpmpp2m(model: EDMPrecond, noise: Tensor, label: Tensor, n: int) -> Tensor:
    """DPM-Solver++(2M) by diffusers, which preconditions too: the network inside the denoiser is what it asks."""
    from diffusers import EDMDPMSolverMultistepScheduler

    scheduler = EDMDPMSolverMultistepScheduler(
        sigma_min=0.002, sigma_max=80.0, sigma_data=model.sigma_data, rho=7.0, final_sigmas_type="zero"
    )
    scheduler.set_timesteps(n)
    x = noise * 80.0
    for t in scheduler.timesteps:
        answer = model.network(scheduler.scale_model_input(x, t), t.expand(len(x)), label).to(x.dtype)
        x = scheduler.step(answer, t, x, return_dict=False)[0]
    return x


# --- loops around a network ε(x_t, t)


def own_ddim(model: nn.Module, noise: Tensor, label: Tensor, n: int) -> Tensor:
    """DDIM of this course; knows no labels."""
    return samplers.sample(model, samplers.DDIMSampler(SCHEDULE, n), noise, clip_x0=1.0)


@torch.no_grad()
def diffusers_ddim(model: nn.Module, noise: Tensor, label: Tensor, n: int) -> Tensor:
    """DDIM by diffusers; the same images where ``n`` divides 1000, and the same work everywhere. Knows no labels."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        num_train_timesteps=SCHEDULE.n_steps, beta_start=1e-4, beta_end=0.02, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(n)
    x = noise
    for t in scheduler.timesteps:
        answer = model(x, t.expand(len(x))).to(x.dtype)
        x = scheduler.step(answer, t, x, use_clipped_model_output=True, return_dict=False)[0]
    return x


LOOPS: dict[str, tuple[str, bool, Loop]] = {
    "dpmpp2m": ("this course, DPM-Solver++(2M)", True, _own(samplers.DPMSolverPP2M())),
    "unipc": ("this course, UniPC", True, _own(samplers.UniPC())),
    "diffusers-dpmpp2m": ("diffusers, DPM-Solver++(2M)", True, diffusers_dpmpp2m),
    "ddim": ("this course, DDIM", False, own_ddim),
    "diffusers-ddim": ("diffusers, DDIM", False, diffusers_ddim),
}
"""Title, whether it is for denoisers, and the loop."""


def _has_diffusers() -> bool:
    try:
        return bool(version("diffusers"))
    except PackageNotFoundError:
        return False


def loops_for(denoiser: bool) -> dict[str, Loop]:
    """The loops that fit such a model, and that can be run here."""
    return {
        name: loop
        for name, (_, fits, loop) in LOOPS.items()
        if fits == denoiser and (_has_diffusers() or not name.startswith("diffusers"))
    }


# --- tasks, by "model|path|batch|loop|evaluations"


def _network_tasks(contenders: Sequence[Contender], options: argparse.Namespace) -> dict[str, Callable[[], object]]:
    tasks: dict[str, Callable[[], object]] = {}
    for contender in contenders:
        model = contender.make().eval()
        for path in options.paths:
            placed = PATHS[path].place(contender.make().eval()) if PATHS[path].channels_last else model
            for batch in options.batches:
                x, label = images(batch, PATHS[path].channels_last)
                tasks[f"{contender.name}|{path}|{batch}||1"] = _evaluation(contender, placed, path, x, label)
    return tasks


def _evaluation(contender: Contender, model: nn.Module, path: str, x: Tensor, label: Tensor) -> Callable[[], Tensor]:
    def task() -> Tensor:
        with torch.no_grad(), PATHS[path].precision():
            return contender.evaluate(model, x, label)

    return task


def _run(loop: Loop, model: nn.Module, path: str, batch: int, n: int) -> Callable[[], Tensor]:
    noise, label = images(batch, PATHS[path].channels_last)  # what noise looks like does not matter here

    def task() -> Tensor:
        with PATHS[path].precision():
            return loop(model, noise, label, n)

    return task


def _sample_tasks(contenders: Sequence[Contender], options: argparse.Namespace) -> dict[str, Callable[[], object]]:
    tasks: dict[str, Callable[[], object]] = {}
    for contender in contenders:
        if contender.name not in options.sample_models:
            continue
        for path in options.paths:
            model = PATHS[path].place(contender.make().eval())
            for batch in options.batches:
                for name, loop in loops_for(contender.denoiser).items():
                    for n in options.evaluations:
                        task = f"{contender.name}|{path}|{batch}|{name}|{n}"
                        tasks[task] = _run(loop, model, path, batch, n)
    return tasks


def _loop_tasks(options: argparse.Namespace) -> dict[str, Callable[[], object]]:
    tasks: dict[str, Callable[[], object]] = {}
    for denoiser in (True, False):
        model = EDMPrecond(IdleNetwork()) if denoiser else IdleNetwork()
        for batch in options.batches:
            for name, loop in loops_for(denoiser).items():
                for n in options.evaluations:
                    tasks[f"idle|fp32|{batch}|{name}|{n}"] = _run(loop, model.eval(), "fp32", batch, n)
    return tasks


def rows(section: str, timings: Timings) -> list[dict[str, Any]]:
    """What the tables show: for each task seconds, images a second, and milliseconds for each evaluation."""
    made = []
    for task, seconds in timings.seconds.items():
        model, path, batch, loop, n = task.split("|")
        made.append(
            {
                "section": section,
                "model": model,
                "path": path,
                "batch": int(batch),
                "loop": loop or None,
                "evaluations": int(n),
                "seconds": summary(seconds),
                "images_per_second": summary([int(batch) / value for value in seconds]),
                "milliseconds_per_evaluation": summary([1e3 * value / int(n) for value in seconds]),
                "all_seconds": seconds,
            }
        )
    return made


def _parser() -> argparse.ArgumentParser:
    own = [name for name, contender in MODELS.items() if contender.package is None]
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=positive, default=5, help="how often each task has its turn (default: 5)")
    parser.add_argument("--batches", type=positive, nargs="+", default=[1, 16, 100], help="(default: 1 16 100)")
    parser.add_argument("--evaluations", type=positive, nargs="+", default=[10, 18], help="(default: 10 18)")
    parser.add_argument("--threads", type=positive, help="threads (default: PyTorch's choice)")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="which (default: all)")
    parser.add_argument(
        "--sample-models",
        nargs="+",
        choices=list(MODELS),
        default=own,
        help=f"which of them draw whole samples (default: {' '.join(own)})",
    )
    parser.add_argument(
        "--paths", nargs="+", choices=list(PATHS), default=["bf16", "fp32"], help="(default: bf16 fp32)"
    )
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="which (default: all)")
    parser.add_argument("--out", type=Path, default=RESULTS / "sampling.json", help="JSON file to write")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code: 2 after a message about wrong input, 130 if it was interrupted."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if min(options.evaluations) < 2:  # a step of diffusers' scheduler needs a next one
        print(f"error: expected --evaluations of at least 2, got {min(options.evaluations)}", file=sys.stderr)
        return 2
    try:
        contenders, skipped = usable(options.models)
        result: dict[str, Any] = {
            "benchmark": "sampling",
            "machine": machine(),
            "settings": {key: getattr(options, key) for key in ("rounds", "batches", "evaluations")},
            "paths": {name: PATHS[name].title for name in options.paths},
            "loops": {name: title for name, (title, _, _) in LOOPS.items()},
            "models": describe(contenders),
            "skipped": skipped,
            "diffusers": version("diffusers") if _has_diffusers() else None,
            "matrix_product": summary([MatrixProduct()() for _ in range(3)]),
            "rows": [],
        }
        for section in dict.fromkeys(options.sections):
            makers = {"network": _network_tasks, "sample": _sample_tasks}
            tasks = makers[section](contenders, options) if section in makers else _loop_tasks(options)
            if not tasks:
                continue
            done = result["rows"]

            def keep(made: int, timings: Timings, section: str = section, done: list[Any] = done) -> None:
                result["rows"] = [*done, *rows(section, timings)]
                write_json(options.out, result)
                print(f"{section}: round {made} of {options.rounds}", flush=True)

            interleave(tasks, options.rounds, after_round=keep)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the rounds that were finished are kept", file=sys.stderr)
        return 130
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
