"""How many images a second can be trained on: our fast U-Net, four other libraries', the assignment's.

One training step: draw noise, forward, backward, clip the norm of the gradient, AdamW. The networks take turns, round
after round in one process, and between any two of them the machine's bfloat16 matrix product is measured::

    python benchmarks/training_throughput.py --rounds 7

Results go to ``helpers/results/training_throughput.json`` after every round; ``python benchmarks/table.py`` makes
the book's tables of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from common import (
    MODELS,
    OURS,
    PATHS,
    RESULTS,
    Contender,
    MatrixProduct,
    RunPath,
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
from torch import nn

__all__ = ["main", "rows", "training_step"]


def training_step(contender: Contender, path: RunPath, batch_size: int, n_steps: int = 1) -> Callable[[], float]:
    """A function that makes ``n_steps`` training steps on a network of its own, and gives the last loss.

    Gradients are let go of at the end, so that networks that wait for their turn hold weights and AdamW's moments.

    Raises:
        ModuleNotFoundError: If the network's package is not installed.
    """
    model = path.place(contender.make()).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.99), **({"fused": True} if path.fused else {})
    )
    generator = torch.Generator().manual_seed(0)
    x_0, label = images(batch_size, path.channels_last)

    def step() -> float:
        for _ in range(n_steps):
            with path.precision():
                loss = contender.loss(model, x_0, label, generator)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        value = loss.item()
        if not value < float("inf"):
            raise FloatingPointError(f"the loss of {contender.name} is {value}: its time would mean nothing")
        return value

    return step


def rows(timings: Timings, models: dict[str, dict[str, Any]], batch_size: int, n_steps: int) -> list[dict[str, Any]]:
    """What the table shows: for each network and path images a second, FLOP a second, and its share of the yardstick.

    ``at_equal_flops`` is images a second of a network that cost exactly what ours costs, at the FLOP rate measured.
    """
    ours = models[OURS]["gflop"] if OURS in models else None
    made = []
    for task, seconds in timings.seconds.items():
        name, path = task.split("|")
        rate = [batch_size * n_steps / value for value in seconds]
        flops = [3e9 * models[name]["gflop"] * value for value in rate]
        share = [value / beside for value, beside in zip(flops, timings.reference[task], strict=True)]
        made.append(
            {
                "model": name,
                "path": path,
                "images_per_second": summary(rate),
                "at_equal_flops": summary([value / (3e9 * ours) for value in flops]) if ours else None,
                "flops_per_second": summary(flops),
                "share_of_matrix_product": summary(share),
                "seconds": seconds,
                "matrix_product": timings.reference[task],
            }
        )
    return made


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=positive, default=7, help="how often each network has its turn (default: 7)")
    parser.add_argument("--steps", type=positive, default=2, help="training steps a turn (default: 2)")
    parser.add_argument("--batch", type=positive, default=128, help="images a step (default: 128)")
    parser.add_argument("--threads", type=positive, help="threads (default: PyTorch's choice)")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="which (default: all)")
    parser.add_argument("--paths", nargs="+", choices=list(PATHS), default=list(PATHS), help="which (default: all)")
    parser.add_argument("--matrix", type=positive, default=2048, help="size of the matrix product (default: 2048)")
    parser.add_argument("--out", type=Path, default=RESULTS / "training_throughput.json", help="JSON file to write")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark.

    Returns:
        The exit code: 2 after a message about wrong input, 1 if a loss is not finite, 130 if it was interrupted.
    """
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        contenders, skipped = usable(options.models)
        result: dict[str, Any] = {
            "benchmark": "training_throughput",
            "machine": machine(),
            "settings": {key: getattr(options, key) for key in ("rounds", "steps", "batch", "matrix")},
            "paths": {name: PATHS[name].title for name in options.paths},
            "models": describe(contenders),
            "skipped": skipped,
        }
        for reason in skipped.values():
            print(f"skipped: {reason}")
        tasks = {
            f"{contender.name}|{path}": training_step(contender, PATHS[path], options.batch, options.steps)
            for path in options.paths
            for contender in contenders
        }

        def keep(done: int, timings: Timings) -> None:
            measured = rows(timings, result["models"], options.batch, options.steps)
            everything = [value for values in timings.reference.values() for value in values]
            write_json(
                options.out,
                {**result, "rounds_made": done, "matrix_product": summary(everything), "rows": measured},
            )
            print(f"round {done} of {options.rounds}", flush=True)
            if done == options.rounds:
                _report(measured)

        product = MatrixProduct(options.matrix)
        interleave(tasks, options.rounds, reference=product, after_round=keep)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the rounds that were finished are kept", file=sys.stderr)
        return 130
    print(f"wrote {options.out}")
    return 0


def _report(measured: list[dict[str, Any]]) -> None:
    for row in measured:
        rate, share = row["images_per_second"], row["share_of_matrix_product"]
        print(
            f"{row['path']:20}{row['model']:30}{rate['median']:8.1f} images/s ({rate['q1']:.1f} to {rate['q3']:.1f})"
            f"  {share['median']:.2f} of the matrix product"
        )


if __name__ == "__main__":
    sys.exit(main())
