"""How many evaluations of the network does a picture need?

A solver takes the same noise to nearly the same picture whatever the number of its steps, if they are enough. How many
that is, a distance from real pictures tells better than the error of the solver, which eyes may not see::

    python benchmarks/few_evaluations.py

Each solver gets the grid of noise levels of the course (Karras) with as many steps as the evaluations allow; the noise
is the same for all. Results go to ``helpers/results/few_evaluations.json``, after every row; the same command makes
what is missing, and other ``--solvers`` or ``--evaluations`` add rows. ``python benchmarks/table.py`` makes the book's
table of them.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from common import PATHS, RESULTS, machine, positive, read_json, write_json
from torch import nn

from helpers import evaluation, generation, samplers, zoo

__all__ = ["SPACES", "Settings", "main", "measure"]

SPACES = ("effnetlite0", "cifarnet")


@dataclass(frozen=True)
class Settings:
    """What all rows have in common.

    Attributes:
        n: Pictures of each row.
        seed: Of the noise.
        guidance: Scale of guidance; 1 is none.
        sample_path: How the network is evaluated, one of ``common.PATHS``.
    """

    n: int
    seed: int
    guidance: float
    sample_path: str


def measure(
    model: nn.Module,
    card: dict[str, Any],
    solver: str,
    evaluations: int,
    settings: Settings,
    spaces: Mapping[str, evaluation.Features],
) -> list[dict[str, Any]]:
    """Draw pictures with at most so many evaluations each, and compare them with real ones, a row for each space.

    Raises:
        ValueError: For an unknown solver, or what :func:`helpers.generation.draw` refuses.
    """
    steps = samplers.steps_for(generation.solver_of(solver), evaluations)
    n, seed, begin = settings.n, settings.seed, time.perf_counter()
    with PATHS[settings.sample_path].precision():
        drawn = generation.draw(model, card, n, seed=seed, steps=steps, solver=solver, guidance=settings.guidance)
    seconds = time.perf_counter() - begin
    about = {"solver": solver, "evaluations": evaluations, "steps": steps, "seed": seed, "seconds": seconds}
    images, classes = drawn.images.float(), generation.n_classes(card)
    labels = torch.arange(n) % classes if classes else None  # as they were asked for
    return [
        {**about, **evaluation.evaluate_images(images, name, features=features, labels=labels)}
        for name, features in spaces.items()
    ]


def _guidance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--weights", type=Path, help="a .safetensors file (default: the shipped cifar10-edm)")
    parser.add_argument("--solvers", nargs="+", choices=list(generation.SOLVERS), default=["ipndm", "unipc"])
    counts = [5, 10, 18, 30]
    parser.add_argument("--evaluations", type=positive, nargs="+", default=counts, help="(default: 5 10 18 30)")
    parser.add_argument("--n", type=positive, default=2000, help="pictures of each row (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    parser.add_argument("--guidance", type=_guidance, default=1.0, help="scale of guidance (default: 1, none)")
    parser.add_argument("--sample-path", choices=list(PATHS), default="bf16", help="of the network (default: bf16)")
    parser.add_argument("--threads", type=positive, help="threads (default: PyTorch's choice)")
    parser.add_argument("--out", type=Path, default=RESULTS / "few_evaluations.json", help="JSON file to write")
    return parser


def _run(options: argparse.Namespace) -> None:
    if options.weights is None:
        model, card = zoo.load("cifar10-edm"), zoo.card("cifar10-edm")
    else:
        model, card = zoo.load_file(options.weights)
    if generation.is_energy(card) or not generation.is_continuous(card):
        raise ValueError(f"expected a model of continuous noise, got {card['name']}")
    evaluation.PROTOCOL.check_number(options.n)
    about = {key: card[key] for key in ("name", "sha256", "images_seen")}
    settings = Settings(options.n, options.seed, options.guidance, options.sample_path)
    result = read_json(options.out) or {
        "benchmark": "few_evaluations",
        "machine": machine(),
        "model": about,
        "settings": asdict(settings),
        "rows": [],
    }
    for key, wanted in (("model", about), ("settings", asdict(settings))):
        if result[key] != wanted:
            raise ValueError(f"{options.out} holds results of {result[key]}, not {wanted}: choose another --out")
    model, spaces = PATHS[options.sample_path].place(model), {name: evaluation.load_features(name) for name in SPACES}
    have = {(row["solver"], row["evaluations"]) for row in result["rows"]}
    for evaluations in options.evaluations:
        for solver in options.solvers:
            if (solver, evaluations) in have:
                continue
            rows = measure(model, card, solver, evaluations, settings, spaces)
            result["rows"] += rows
            write_json(options.out, result)
            found = ", ".join(f"{row['label']} {row['frechet_distance']:.1f}" for row in rows)
            print(f"{solver}, {evaluations} evaluations: {found}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; returns the exit code: 2 after a message about wrong input, 130 if it was interrupted."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        _run(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: finished rows are kept, and the same command makes the others", file=sys.stderr)
        return 130
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
