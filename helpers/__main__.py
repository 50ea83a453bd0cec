"""The command line: ``python -m helpers {train,sample,describe}``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torchvision.utils import save_image

from . import recipes, samplers, zoo

__all__ = ["main"]


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
    sample.add_argument("--out", type=Path, default=Path("samples.png"), help="PNG file to write")
    describe = commands.add_parser("describe", help="list recipes and shipped models, or show one model's card")
    describe.add_argument("name", nargs="?", help="a shipped model")
    return parser


def _sample(name: str, n: int, steps: int, seed: int, out: Path) -> None:
    info = zoo.card(name)
    if n < 1:
        raise ValueError(f"expected --n >= 1, got {n}")
    if out.suffix.lower() != ".png":
        raise ValueError(f"expected --out to end in .png, got {out}")
    schedule = zoo.schedule_of(info)
    channels = info["architecture"]["arguments"]["in_channels"]
    x_T = torch.randn(n, channels, 16, 16, generator=torch.Generator().manual_seed(seed))
    images = samplers.sample(zoo.load(name), samplers.DDIMSampler(schedule, steps), x_T, clip_x0=1.0, progress=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_image((images + 1) / 2, out, nrow=max(1, round(n**0.5)), padding=1, pad_value=1.0)
    print(f"wrote {out}")


def _describe(name: str | None) -> None:
    if name is not None:
        print(json.dumps(zoo.card(name), indent=2, ensure_ascii=False))
        return
    for recipe in recipes.RECIPES.values():
        shipped = "ships" if recipe.name in zoo.available() else "not shipped"
        print(f"{recipe.name}  ({shipped}; training: {recipe.expect})\n    {recipe.summary}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, or 2 after a message about wrong input."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "train":
            print(f"wrote {recipes.run(options.name, options.out)} and its card")
        elif options.command == "sample":
            _sample(options.name, options.n, options.steps, options.seed, options.out)
        else:
            _describe(options.name)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
