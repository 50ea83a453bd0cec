"""The command that made what ships beside it: ``python -m helpers.evaluation.references {build,calibrate} NAME``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ... import data, training
from ..calibration import calibrate
from ..features import FEATURES, load_features
from ..frechet import extract_features
from ..probe import linear_probe
from . import FOLDER, build_reference, load_reference, save_reference

__all__ = ["main"]

N_PROBE = 10_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 2 after a message about wrong input."""
    parser = argparse.ArgumentParser(prog="python -m helpers.evaluation.references", description=__doc__)
    parser.add_argument("command", choices=("build", "calibrate"))
    parser.add_argument("name", choices=sorted(FEATURES))
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 (default: as data.cifar10 finds it)")
    parser.add_argument("--train", action="store_true", help="build: keep the training images too, to look for copies")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write to (default: the package's own)")
    options = parser.parse_args(arguments)
    typed = f"python -m helpers.evaluation.references {options.command} {options.name}"
    try:
        cifar10, features = data.cifar10(options.data), load_features(options.name)
        if options.command == "build":
            train, flag = (cifar10.train, " --train") if options.train else (None, "")
            reference, tensors = build_reference(features, cifar10.test, train, command=typed + flag)
            print(save_reference(options.out, reference, tensors))
        else:
            card = {
                "features": features.describe(),
                "reference": "10,000 test images",
                "rows": calibrate(features, load_reference(options.name, options.out), cifar10.train),
                "linear_probe": {
                    "train": f"training images 0 to {N_PROBE - 1}",
                    "test": "10,000 test images",
                    "test_accuracy": linear_probe(
                        extract_features(features, cifar10.train[:N_PROBE], 100),
                        cifar10.train_labels[:N_PROBE],
                        extract_features(features, cifar10.test, 100),
                        cifar10.test_labels,
                    ),
                },
                "command": typed,
            }
            path = options.out / f"calibration-{options.name}.json"
            training.write_atomically(path, (json.dumps(card, indent=2) + "\n").encode())
            print(path)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
