"""The command line: ``python -m helpers {train,sample,describe}``."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from . import recipes, samplers, training, zoo

__all__ = ["main"]

LIMITS = {"n": 1000, "scale": 32}  # what one picture can show, and memory holds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers",
        description="Train, sample and describe the models of the course.",
        epilog="examples:\n  python -m helpers describe\n  python -m helpers train digits-ddpm --out runs\n"
        "  python -m helpers sample digits-ddpm --n 64 --seed 1 --out digits.png",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train a recipe; writes weights and a model card")
    train.add_argument("name", choices=sorted(recipes.RECIPES))
    train.add_argument("--out", type=Path, default=Path("runs"), help="folder to write to (default: runs)")
    sample = commands.add_parser("sample", help="draw images from a shipped diffusion model")
    sample.add_argument("name", choices=zoo.available())
    sample.add_argument("--n", type=int, default=64, help="how many images (default: 64)")
    sample.add_argument("--steps", type=int, default=50, help="DDIM steps (default: 50)")
    sample.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    sample.add_argument("--film", type=int, help="show this many moments of each image, from noise to sample, in a row")
    sample.add_argument("--scale", type=int, default=4, help="enlarge each pixel this many times (default: 4)")
    sample.add_argument(
        "--out", type=Path, default=Path("samples.png"), help="PNG file to write (default: samples.png)"
    )
    describe = commands.add_parser("describe", help="list recipes and shipped models, or show one model's card")
    describe.add_argument("name", nargs="?", help="a shipped model")
    return parser


def _check_options(options: argparse.Namespace, total: int) -> None:
    """Refuse what cannot work before any work is done; ``total`` is T of the model's schedule."""
    for option, limit in {**LIMITS, "steps": total}.items():
        if not 1 <= getattr(options, option) <= limit:
            raise ValueError(f"expected --{option} from 1 to {limit}, got {getattr(options, option)}")
    if not 0 <= options.seed < 2**63:
        raise ValueError(f"expected --seed from 0 to 2**63 - 1, got {options.seed}")
    if options.film is not None and not 2 <= options.film <= options.steps + 1:
        raise ValueError(f"expected --film from 2 to {options.steps + 1} (steps + 1), got {options.film}")
    if options.out.suffix.lower() != ".png":
        raise ValueError(f"expected --out to end in .png, got {options.out}")
    if options.out.is_dir():
        raise ValueError(f"expected --out to be a file, got the folder {options.out}")


def _sample(options: argparse.Namespace) -> None:
    info = zoo.card(options.name)
    schedule = zoo.schedule_of(info)
    _check_options(options, schedule.n_steps)
    sampler = samplers.DDIMSampler(schedule, options.steps)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    channels = info["architecture"]["arguments"]["in_channels"]
    x_T = torch.randn(options.n, channels, 16, 16, generator=torch.Generator().manual_seed(options.seed))
    run = samplers.sample(zoo.load(options.name), sampler, x_T, clip_x0=1.0, return_trajectory=True, progress=True)
    images, columns = run.samples, max(1, round(options.n**0.5))
    if options.film is not None:
        # Evenly spaced in the noise's share: evenly spaced in t, most moments would look like pure noise.
        noise = (1 - sampler.schedule.alpha_bar(torch.tensor(run.timesteps))).sqrt()
        wanted = torch.linspace(1, 0, options.film, dtype=noise.dtype)
        moments = (noise - wanted[:, None]).abs().argmin(1)
        images, columns = run.x[moments].transpose(0, 1).flatten(0, 1), options.film
    images = images.repeat_interleave(options.scale, 2).repeat_interleave(options.scale, 3)
    grid = make_grid((images.clamp(-1, 1) + 1) / 2, nrow=columns, padding=options.scale, pad_value=1.0)
    content = io.BytesIO()
    to_pil_image(grid).save(content, format="PNG")
    training.write_atomically(options.out, content.getvalue())
    print(f"wrote {options.out}")


def _describe(name: str | None) -> None:
    if name is not None:
        print(json.dumps(zoo.card(name), indent=2, ensure_ascii=False))
        return
    for recipe in recipes.RECIPES.values():
        shipped = "ships" if recipe.name in zoo.available() else "not shipped"
        print(f"{recipe.name}  ({shipped}; training: {recipe.expect})\n    {recipe.summary}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0; 2 after a message about wrong input; 1 if training diverged; 130 if it was interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command == "train":
            print(f"wrote {recipes.run(options.name, options.out)} and its card")
        elif options.command == "sample":
            _sample(options)
        else:
            _describe(options.name)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except training.TrainingDiverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
