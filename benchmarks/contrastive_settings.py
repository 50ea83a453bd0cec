"""Which settings of contrastive divergence bring new chains near the data?

``cifar10-ebm`` has settings that nobody can derive: the learning rate, how many chains restart, how much noise they
get. Each variant goes on from the same weights for the same number of updates, with chains of its own, all from noise.
Then two sets of pictures are compared with real ones: chains that the training left in its buffer, and new chains,
which start from noise and have to find the way alone::

    python benchmarks/contrastive_settings.py --start runs/cifar10-ebm.safetensors --out runs/settings.json

New chains are what the model is sampled by. A buffer can look good while nothing leads there from noise.
Results go to ``helpers/results/contrastive_settings.json``, after every variant; the same command makes what is
missing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, machine, positive, read_json, write_json
from torch import Tensor, nn

from helpers import data, evaluation, generation, recipes, training, zoo
from helpers.recipes import energies

__all__ = ["VARIANTS", "Variant", "fresh_chains", "main", "train"]

RECIPE = "cifar10-ebm"
SPACE = "effnetlite0"


@dataclass(frozen=True)
class Variant:
    """Settings of one training; what is not named is the recipe's.

    Attributes:
        title: In tables.
        learning_rate: Of Adam.
        restart: Share of chains that start anew when they are drawn.
        temperature: Of the chains.
        capacity: How many chains there are.
    """

    title: str
    learning_rate: float = 1e-3
    restart: float = energies.RESTART
    temperature: float = energies.SAMPLER.temperature
    capacity: int = energies.CAPACITY


VARIANTS = {
    "published": Variant("as Grathwohl et al. (2020): rate 1e-4, 5 % restart, noise 0.01", 1e-4, 0.05, 5e-5),
    "rate": Variant("the first row with rate 1e-3", restart=0.05, temperature=5e-5),
    "small-buffer": Variant("rate 1e-3, a thousand chains", restart=0.05, temperature=5e-5, capacity=1_000),
    "restart": Variant("rate 1e-3, 20 % restart", temperature=5e-5),
    "recipe": Variant("rate 1e-3, 20 % restart, noise 0.005: the recipe"),
}
"""Noise is the standard deviation that a step adds, √(step size · temperature) with a step size of 2."""


def train(variant: Variant, start: Path, images: Tensor, n_steps: int) -> tuple[nn.Module, Tensor, list[float]]:
    """Go on from the weights ``start``, on images (N, 3, 32, 32) as bytes.

    Returns:
        The average of the weights; the chains (capacity, 3, 32, 32); the loss of every update.

    Raises:
        TrainingDiverged: If the loss does not stay finite.
    """
    config = replace(
        recipes.RECIPES[RECIPE].config,
        n_steps=n_steps,
        learning_rate=variant.learning_rate,
        warmup_steps=min(100, n_steps // 4),
    )
    examples = recipes.Examples(images, None, 0, "", images)
    loss = energies.contrastive_loss(examples, config.seed, variant.capacity, variant.restart, variant.temperature)
    model = zoo.build(recipes.RECIPES[RECIPE].architecture)
    average, _ = recipes.warm_start(model, recipes.Job(Path(), start=start))
    result = training.train(model, loss, torch.arange(len(images)), config, start=average, progress=False)
    return result.ema, loss.chains, result.losses


def fresh_chains(energy: nn.Module, n: int, variant: Variant) -> Tensor:
    """``n`` pictures as bytes, drawn as the card of the recipe says, at the variant's temperature; seed 0."""
    card = {"architecture": recipes.RECIPES[RECIPE].architecture, "schedule": None, "shape": [3, 32, 32]}
    card["sampling"] = {**energies.SAMPLING, "temperature": variant.temperature}
    return data.to_uint8(generation.draw(energy, card, n, seed=0, steps=None).images.float())


def _row(variant: Variant, images: Tensor, options: argparse.Namespace, space: evaluation.Features) -> dict[str, Any]:
    begin = time.process_time()
    energy, chains, losses = train(variant, options.start, images, options.steps)
    seconds = time.process_time() - begin
    sets = {"buffer": data.to_uint8(chains[: options.n]), "fresh": fresh_chains(energy, options.n, variant)}
    reference = evaluation.load_reference(SPACE)
    row: dict[str, Any] = {"title": variant.title, "cpu_seconds": seconds, "largest_loss": max(map(abs, losses))}
    for name, pictures in sets.items():
        statistics = evaluation.feature_statistics(evaluation.extract_features(space, pictures))
        row[name] = evaluation.frechet_distance(statistics, reference.statistics)
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; returns the exit code.

    2 after a message about wrong input, 1 if a training diverged, 130 if it was interrupted.
    """
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--start", type=Path, required=True, help="weights of cifar10-ebm to go on from")
    parser.add_argument("--steps", type=positive, default=400, help="updates of each variant (default: 400)")
    parser.add_argument("--n", type=positive, default=1000, help="pictures that are compared (default: 1000)")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--threads", type=positive, help="threads (default: PyTorch's choice)")
    parser.add_argument("--out", type=Path, default=RESULTS / "contrastive_settings.json", help="JSON file to write")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        if small := [name for name in options.variants if VARIANTS[name].capacity < options.n]:
            most = VARIANTS[small[0]].capacity
            raise ValueError(f"expected --n of at most {most}, the chains of {small[0]}, got {options.n}")
        _, card = zoo.load_file(options.start)
        settings = {"steps": options.steps, "n": options.n, "start": card["sha256"], "images_seen": card["images_seen"]}
        result = read_json(options.out) or {
            "benchmark": "contrastive_settings",
            "machine": machine(),
            "settings": settings,
            "rows": {},
        }
        if result["settings"] != settings:
            raise ValueError(
                f"{options.out} holds results with {result['settings']}, not {settings}: choose another --out"
            )
        space, images = evaluation.load_features(SPACE), data.cifar10().train
        for name in options.variants:
            if name in result["rows"]:
                continue
            row = result["rows"][name] = _row(VARIANTS[name], images, options, space)
            write_json(options.out, result)
            print(f"{name}: buffer {row['buffer']:.0f}, new chains {row['fresh']:.0f}", flush=True)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except training.TrainingDiverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: finished variants are kept, and the same command makes the others", file=sys.stderr)
        return 130
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
