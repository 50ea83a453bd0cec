"""How good are the images after the same time of training from scratch?

Speed counts only with quality. Each variant is a recipe of the course with some settings changed, trained for the same
time, then sampled and compared with real images, seed by seed::

    python benchmarks/quality_at_equal_time.py --minutes 60

A training whose length is a time cannot be repeated exactly, one whose length is a number of steps can. So a short
measurement says first how many steps fit into the time, that number is written down, and the training takes exactly so
many, with a learning rate that is told where the end is. Nothing is lost when the script is stopped, even in the middle
of a training: the same command goes on. ``--steps fast-unet=4000`` repeats a run of known length without measuring.
``--pace-of fast-unet`` adds a variant on another day, or another machine, than that of the stored ones: it measures
both in turn, and what counts is their ratio.

The time is that of the training steps alone, on the clock on the wall, or (``--clock cpu``) what this process took of
all its threads' processors, divided by their number, for machines that others use too. Results go to
``helpers/results/quality_at_equal_time.json``; ``python benchmarks/table.py`` makes the book's table of them.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from common import PATHS, RESULTS, machine, positive, read_json, write_json
from torch import Tensor, nn

from helpers import data, evaluation, generation, recipes, training, zoo
from helpers.evaluation import packages

__all__ = ["VARIANTS", "Variant", "calibrate", "main", "relative_pace", "settings_for", "steps_within"]

LEAST_STEPS = 5
"""Of the shorter of the two trainings that a calibration compares."""


@dataclass(frozen=True)
class Variant:
    """A recipe, what is changed in it, and how it is sampled.

    Attributes:
        title: In tables.
        recipe: Its name in :data:`helpers.recipes.RECIPES`.
        changes: Other settings of its training.
        arguments: Other arguments of its network.
        sample_steps: Steps of the sampler, one evaluation of the network each.
    """

    title: str
    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    sample_steps: int = 20
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_classes(self) -> int:
        """How many classes its model can be asked for."""
        return generation.n_classes({"architecture": recipes.RECIPES[self.recipe].architecture})


AS_WRITTEN = {"precision": "float32", "channels_last": False, "fused": False}

DECAY = {"decay": "cosine", "decay_steps": None}

VARIANTS: dict[str, Variant] = {
    "simple-unet-fp32": Variant("SimpleUNet, float32 as written", "cifar10-ddpm", AS_WRITTEN),
    "simple-unet-fast": Variant("SimpleUNet, fast path", "cifar10-ddpm"),
    "fast-unet": Variant("fast U-Net", "cifar10-edm", DECAY, 18),
    "fast-unet-adamw": Variant(
        "fast U-Net, AdamW at 1e-3", "cifar10-edm", {**DECAY, "optimizer": "adamw", "learning_rate": 1e-3}, 18
    ),
    "simple-unet-decay": Variant("SimpleUNet, fast path, rate decays to 0", "cifar10-ddpm", {"decay": "cosine"}),
    "energy-unet": Variant("energy of the fast U-Net, score matching", "cifar10-energy", DECAY, 18),
    "energy-cnn": Variant("small convolutional energy, contrastive divergence", "cifar10-ebm", {}, 400),
    "fast-unet-narrow": Variant("fast U-Net, 64 channels at 16²", "cifar10-edm", DECAY, 18, {"channels": [64, 256]}),
    "fast-unet-small": Variant("fast U-Net, 64 and 192 channels", "cifar10-edm", DECAY, 18, {"channels": [64, 192]}),
    "fast-unet-batch-64": Variant("fast U-Net, batches of 64", "cifar10-edm", {**DECAY, "batch_size": 64}, 18),
    "fast-unet-rate-2e-3": Variant("fast U-Net, rate 2e-3", "cifar10-edm", {**DECAY, "learning_rate": 2e-3}, 18),
}
"""The assignment's network keeps the constant rate that it is read with; ``simple-unet-decay`` shows what a decay does
for it, and ``fast-unet-adamw`` what the optimiser does for the other. The two energies start from nothing here, as
everything else does. The last four are candidates beside the fast U-Net. None of these is run unless asked for."""

DEFAULT_VARIANTS = ("simple-unet-fp32", "simple-unet-fast", "fast-unet")


def settings_for(variant: Variant, n_steps: int) -> dict[str, Any]:
    """The changes for a training of ``n_steps`` steps: the variant's, and a warm-up of at most a tenth of the steps."""
    config = recipes.RECIPES[variant.recipe].config
    return {**variant.changes, "n_steps": n_steps, "warmup_steps": min(config.warmup_steps, n_steps // 10)}


# --- how many steps fit into the time


def _timed_run(variant: Variant, n_steps: int) -> dict[str, float]:
    """Seconds that a training of ``n_steps`` takes: ``wall`` of its steps, ``cpu`` of all of it, a thread's share."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        recipes.run(
            variant.recipe, folder, changes=settings_for(variant, n_steps), arguments=variant.arguments, progress=False
        )
        cpu = (time.process_time() - begin) / torch.get_num_threads()
        log = training.Run(Path(folder) / variant.recipe).read_log()
    return {"wall": log[-1]["seconds"], "cpu": cpu}


def calibrate(variant: Variant, n_steps: int) -> dict[str, float]:
    """Seconds a step on both clocks, from two trainings of which one has ``n_steps`` more.

    What both have in common (loading the data, the first step, writing files) falls out of the difference.

    Raises:
        ValueError: If the difference is not positive, which says that ``n_steps`` is too few.
    """
    short, long = (_timed_run(variant, n) for n in (LEAST_STEPS, LEAST_STEPS + n_steps))
    each = {clock: (long[clock] - short[clock]) / n_steps for clock in short}
    if min(each.values()) <= 0:
        raise ValueError(f"{n_steps} steps are too few to measure how long one takes: raise --calibrate")
    return each


def relative_pace(variant: Variant, other: Variant, n_steps: int, rounds: int = 3) -> dict[str, list[float]]:
    """How many times as long a step takes as one of ``other``, on both clocks, a ratio a round.

    The two take turns, so that what slows the machine for a while slows both.

    Raises:
        ValueError: As :func:`calibrate`.
    """
    ratios: dict[str, list[float]] = {}
    for _ in range(rounds):
        reference, own = calibrate(other, n_steps), calibrate(variant, n_steps)
        for clock, seconds in own.items():
            ratios.setdefault(clock, []).append(seconds / reference[clock])
    return ratios


def steps_within(minutes: float, seconds_a_step: float) -> int:
    """How many steps fit, at least one.

    Example:
        >>> steps_within(60, 1.5)
        2400
    """
    return max(1, math.floor(60 * minutes / seconds_a_step))


# --- training, sampling, measuring


def _step_of(checkpoint: Path) -> int:
    """At which step a checkpoint is; 0 if there is none, or it cannot be read (which the training will explain)."""
    try:
        with safetensors.safe_open(checkpoint, "pt") as file:
            return json.loads(file.metadata()["state"])["step"]
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError):
        return 0


def train(variant: Variant, n_steps: int, folder: Path) -> dict[str, Any]:
    """Train, or go on with it, and say what it took.

    Returns:
        ``images_seen, final_loss, sha256``; ``minutes`` of all sessions' steps; ``cpu_minutes`` of this session, a
        thread's share, and ``session_steps``, the steps that it made.

    Raises:
        KeyboardInterrupt: If it was asked to stop; the state is kept.
    """
    before, begin = _step_of(folder / variant.recipe / "checkpoint.safetensors"), time.process_time()
    path = recipes.run(
        variant.recipe,
        folder,
        changes=settings_for(variant, n_steps),
        arguments=variant.arguments,
        command=f"python benchmarks/{Path(__file__).name}",
    )
    cpu = (time.process_time() - begin) / torch.get_num_threads() / 60
    card = json.loads(path.with_suffix(".json").read_text("utf-8"))
    return {
        "images_seen": card["images_seen"],
        "final_loss": card["metrics"]["final_loss"],
        "sha256": card["sha256"],
        "parameters": card["parameters"],
        "minutes": card["minutes"],
        "cpu_minutes": cpu,
        "session_steps": n_steps - before,
        "config": card["config"],
    }


def draw(variant: Variant, folder: Path, n: int, seed: int, path: str) -> Tensor:
    """``n`` images as bytes (n, 3, 32, 32), kept in ``folder`` and drawn only once."""
    weights = folder / f"{variant.recipe}.safetensors"
    model, card = zoo.load_file(weights)
    # What the images depend on is in the name, so that others are never taken for them.
    kept = folder / f"samples-{card['sha256'][:12]}-{variant.sample_steps}-{path}-{n}-{seed}.safetensors"
    if kept.exists():
        return safetensors.torch.load_file(kept)["images"]
    with PATHS[path].precision():
        drawn = generation.draw(PATHS[path].place(model), card, n, seed=seed, steps=variant.sample_steps, progress=True)
    images = data.to_uint8(drawn.images.float()).contiguous()
    training.write_atomically(kept, safetensors.torch.save({"images": images}))
    return images


class Study:
    """The results, written after every step, and the steps that are still to be made.

    Args:
        options: Of the command line.

    Raises:
        ValueError: If the results file is of a comparison with other settings.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        wanted = {key: getattr(options, key) for key in ("minutes", "clock", "n", "sample_path")}
        wanted["threads"] = torch.get_num_threads()
        found = read_json(options.out)
        if found is not None and found["settings"] != wanted:
            raise ValueError(
                f"{options.out} holds results with {found['settings']}, not {wanted}: choose another --out"
            )
        self.result = found or {
            "benchmark": "quality_at_equal_time",
            "machine": machine(),
            "settings": wanted,
            "variants": {},
        }

    def save(self) -> None:
        """Write what there is."""
        write_json(self.options.out, self.result)

    def run(self, features: Mapping[str, evaluation.Features], classifier: nn.Module | None = None) -> None:
        """All that is missing: calibrations, then trainings, then images and their distances.

        Args:
            features: The spaces in which distances are measured, by name.
            classifier: Judges the classes of images; needed only for variants that know classes.
        """
        names = self.options.variants
        for name in names:
            self._plan(name)
        for name in names:
            self._train(name)
        for seed in self.options.seeds:
            for name in names:
                self._measure(name, seed, features, classifier)

    def _entry(self, name: str) -> dict[str, Any]:
        return self.result["variants"].setdefault(name, {"title": VARIANTS[name].title, "evaluations": []})

    def _plan(self, name: str) -> None:
        entry, given = self._entry(name), dict(self.options.steps).get(name)
        if "n_steps" in entry:
            if given not in (None, entry["n_steps"]):
                raise ValueError(f"{self.options.out} has {name} with {entry['n_steps']} steps, not {given}")
            return
        if given is None:
            print(f"{name}: how long does a step take?", flush=True)
            entry["seconds_a_step"] = self._seconds_a_step(name, entry)
            given = steps_within(self.options.minutes, entry["seconds_a_step"][self.options.clock])
        entry["n_steps"] = given
        self.save()
        print(f"{name}: {given} steps", flush=True)

    def _seconds_a_step(self, name: str, entry: dict[str, Any]) -> dict[str, float]:
        other, n_steps = self.options.pace_of, self.options.calibrate
        if other in (None, name):
            return calibrate(VARIANTS[name], n_steps)
        stored = self.result["variants"].get(other, {}).get("seconds_a_step")
        if stored is None:
            raise ValueError(f"--pace-of wants a variant whose pace is stored in {self.options.out}, got {other}")
        ratios = relative_pace(VARIANTS[name], VARIANTS[other], n_steps)
        entry["pace"] = {"of": other, "ratios": ratios, "machine": machine()}
        return {clock: seconds * statistics.median(ratios[clock]) for clock, seconds in stored.items()}

    def _folder(self, name: str) -> Path:
        return self.options.runs / name

    def _train(self, name: str) -> None:
        entry, variant = self._entry(name), VARIANTS[name]
        if "training" in entry and (self._folder(name) / f"{variant.recipe}.safetensors").exists():
            return
        trained = train(variant, entry["n_steps"], self._folder(name))
        if trained["sha256"] != entry.get("training", {}).get("sha256"):
            entry["evaluations"] = []  # they were of other weights
        entry["training"] = trained
        self.save()
        print(f"{name}: trained for {trained['minutes']:.1f} minutes", flush=True)

    def _measure(
        self, name: str, seed: int, features: Mapping[str, evaluation.Features], classifier: nn.Module | None
    ) -> None:
        entry, variant, folder = self._entry(name), VARIANTS[name], self._folder(name)
        have = {(row["seed"], row["features"]) for row in entry["evaluations"]}
        missing = [space for space in features if (seed, space) not in have]
        if not missing:
            return
        images = draw(variant, folder, self.options.n, seed, self.options.sample_path)
        labels = torch.arange(len(images)) % variant.n_classes if variant.n_classes else None  # as they were asked for
        for space in missing:
            row = evaluation.evaluate_images(
                images, space, features=features[space], labels=labels, classifier=classifier
            )
            entry["evaluations"].append({"seed": seed, "sample_steps": variant.sample_steps, **row})
            self.save()
            print(f"{name}: seed {seed}, {row['label']} {row['frechet_distance']:.1f}", flush=True)


# --- the command line


def _steps(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if name not in VARIANTS:
        raise argparse.ArgumentTypeError(f"expected VARIANT=STEPS with one of {', '.join(VARIANTS)}, got {text!r}")
    return name, positive(number)


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def _seed(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"expected an integer from 0 to 2**63 - 1, got {text!r}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--minutes", type=_minutes, default=60.0, help="of training for each variant (default: 60)")
    add("--clock", choices=("wall", "cpu"), default="wall", help="by which they are measured (default: wall)")
    add("--variants", nargs="+", choices=list(VARIANTS), default=list(DEFAULT_VARIANTS), help="which to compare")
    add("--steps", nargs="+", type=_steps, default=[], metavar="VARIANT=N", help="train N steps, without measuring")
    add("--calibrate", type=positive, default=20, help="steps that are measured (default: 20)")
    add("--pace-of", choices=list(VARIANTS), help="measure a step beside this stored variant's (default: alone)")
    add("--n", type=positive, default=5000, help="images a seed (default: 5000)")
    add("--seeds", type=_seed, nargs="+", default=[0, 1, 2], help="seeds of the noise to draw from (default: 0 1 2)")
    add("--features", nargs="+", default=["effnetlite0", "cifarnet"], help="(default: effnetlite0 cifarnet)")
    add("--sample-path", choices=list(PATHS), default="fp32", help="how images are drawn (default: fp32)")
    add("--threads", type=positive, help="threads (default: PyTorch's choice)")
    add("--runs", type=Path, default=Path("runs/quality_at_equal_time"), help="folder for weights, states and samples")
    add("--out", type=Path, default=RESULTS / "quality_at_equal_time.json", help="JSON file to write")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison.

    Returns:
        The exit code: 2 after a message about wrong input, 1 if a training diverged, 130 if it was interrupted.
    """
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        # What cannot be loaded or measured should say so before hours of training.
        packages.needed("prdc", "prdc", "quality_at_equal_time")
        evaluation.PROTOCOL.check_number(options.n)
        features = {name: evaluation.load_features(name) for name in options.features}
        for name in options.features:
            evaluation.load_reference(name)
        knows_classes = any(VARIANTS[name].n_classes for name in options.variants)
        Study(options).run(features, evaluation.shipped_cifarnet() if knows_classes else None)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except training.TrainingDiverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the state is kept, and the same command goes on", file=sys.stderr)
        return 130
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
