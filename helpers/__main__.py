"""The command line: ``python -m helpers {train,sample,evaluate,describe,export,serve}``."""

from __future__ import annotations

import argparse
import ast
import io
import json
import math
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from . import data, evaluation, generation, recipes, teaching, training, zoo

__all__ = ["main"]

LIMITS = {"n": 1000, "scale": 32}  # what one picture can show
PIXELS = 80_000_000  # of that picture: memory holds it, and what opens it does not take it for an attack

GRADING = """exit code: 0 if every notebook was graded, whatever the marks; 1 if one could not be; 2 for wrong input.

Learners' code runs in processes of its own with limits on time and, on Linux, on memory. That is no sandbox: it can
read, write and send what you can. Grade strangers' notebooks on a machine, or in a container, that holds nothing else.
"""

EXAMPLES = """examples:
  python -m helpers describe
  python -m helpers train digits-ddpm --out runs
  python -m helpers train cifar10-edm --set n_steps=2000 warmup_steps=200 decay_steps=500
  python -m helpers train cifar10-edm --images holiday --size 64 --out runs/holiday
  torchrun --nproc_per_node 2 -m helpers train cifar10-edm --set n_parts=2
  python -m helpers sample digits-ddpm --n 64 --seed 1 --out digits.png
  python -m helpers sample cifar10-edm --class ship --guidance 3 --steps 10 --out ships.png
  python -m helpers evaluate cifar10-edm --n 5000 --seeds 0 1 2 --pooled 10000
  python -m helpers export cifar10-edm --out cifar10.onnx
  python -m helpers serve --port 8000
  python -m helpers grade homework/ --csv marks.csv
  python -m helpers student --out edition
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers",
        description="Train, sample, evaluate, describe and serve the models of the course.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_train(commands.add_parser("train", help="train a recipe; writes weights and a model card"))
    _add_sample(commands.add_parser("sample", help="draw images from a diffusion model"))
    _add_evaluate(commands.add_parser("evaluate", help="measure a model's images against real ones"))
    describe = commands.add_parser("describe", help="list recipes and shipped models, or show one model's card")
    describe.add_argument("name", nargs="?", help="a shipped model")
    _add_export(commands.add_parser("export", help="write a model as an ONNX graph, which runs without Python"))
    _add_grade(commands.add_parser("grade", help="grade learners' notebooks with the checks of the lessons"))
    _add_student(commands.add_parser("student", help="write the lessons without their solutions"))
    _add_serve(commands.add_parser("serve", help="answer requests for pictures over HTTP, with a page to try it"))
    return parser


def _add_train(train: argparse.ArgumentParser) -> None:
    train.add_argument("name", choices=sorted(recipes.RECIPES))
    train.add_argument("--out", type=Path, default=Path("runs"), help="folder to write to (default: runs)")
    train.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="SETTING=VALUE",
        help="other settings than the recipe's, e.g. n_steps=2000 precision=float32",
    )
    train.add_argument("--images", type=Path, help="folder of pictures to train on instead of the recipe's data")
    train.add_argument("--size", type=int, help="height and width for those pictures, divisible by 4 (default: 32)")
    train.add_argument("--start", type=Path, help="weights (.safetensors) of an earlier run to go on from")


def _add_model(command: argparse.ArgumentParser, steps: str) -> None:
    command.add_argument("name", help="a shipped model, or the .safetensors file of your own")
    command.add_argument("--steps", type=int, help=f"steps of the sampler (default: {steps})")
    command.add_argument(
        "--solver",
        choices=[*generation.SOLVERS, generation.ANNEALED],
        help=f"for models of continuous noise (default: {generation.DEFAULT_SOLVER})",
    )
    command.add_argument("--guidance", type=float, default=1.0, help="scale of classifier-free guidance (default: 1)")


def _add_sample(sample: argparse.ArgumentParser) -> None:
    _add_model(sample, "50, or 18 for models of continuous noise")
    sample.add_argument("--n", type=int, default=64, help="how many images (default: 64)")
    sample.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    sample.add_argument("--class", dest="label", help="a class by its name or number (default: all in turn)")
    sample.add_argument("--film", type=int, help="show this many moments of each image, from noise to sample, in a row")
    sample.add_argument("--scale", type=int, default=4, help="enlarge each pixel this many times (default: 4)")
    sample.add_argument(
        "--out", type=Path, default=Path("samples.png"), help="PNG file to write (default: samples.png)"
    )


def _add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    _add_model(evaluate, "50, or 18 for models of continuous noise")
    evaluate.add_argument("--n", type=int, default=5000, help="how many images (default: 5000)")
    evaluate.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the noise (default: 0)")
    evaluate.add_argument("--pooled", type=int, help="measure so many images of all seeds together, too")
    evaluate.add_argument(
        "--features", nargs="+", default=["effnetlite0"], help="feature spaces (default: effnetlite0)"
    )
    evaluate.add_argument(
        "--precision", default="float32", choices=("float32", "bfloat16"), help="of the network (default: float32)"
    )
    evaluate.add_argument("--out", type=Path, help="JSON file to write the results to")


def _add_export(export: argparse.ArgumentParser) -> None:
    export.add_argument("name", help="a shipped model, or the .safetensors file of your own")
    export.add_argument("--out", type=Path, help="ONNX file to write (default: NAME.onnx)")
    export.formatter_class = argparse.RawDescriptionHelpFormatter
    export.epilog = "example:\n  python -m helpers export digits-ddpm --out digits.onnx"


def _add_serve(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("--host", help="address to listen on (default: 127.0.0.1, this machine only)")
    serve.add_argument("--port", type=int, help="port to listen on, 0 for a free one (default: 8000)")
    serve.add_argument("--models-dir", type=Path, help="folder of more models, as train writes them")
    serve.add_argument("--models", nargs="+", help="serve only these models (default: all)")
    serve.add_argument("--threads", type=int, help="threads of the network (default: as many as torch takes)")
    serve.epilog = "Limits are set by environment variables COURSE_SERVE_…; the book's page on serving lists them."


def _add_lessons(command: argparse.ArgumentParser) -> None:
    command.add_argument("--lessons", type=Path, help="folder of the lessons (default: the repository's notebooks)")


def _add_grade(grade: argparse.ArgumentParser) -> None:
    grade.formatter_class = argparse.RawDescriptionHelpFormatter
    grade.add_argument("notebooks", type=Path, nargs="+", metavar="notebook", help="notebooks, or folders of them")
    grade.add_argument("--json", type=Path, metavar="FILE", help="write everything to a JSON file")
    grade.add_argument("--csv", type=Path, metavar="FILE", help="write a table to a CSV file: one row an exercise")
    grade.add_argument("--seconds", type=float, default=60.0, help="time for each exercise (default: 60)")
    grade.add_argument("--memory", type=int, default=2048, metavar="MB", help="memory for each (default: 2048)")
    _add_lessons(grade)
    grade.epilog = GRADING


def _add_student(student: argparse.ArgumentParser) -> None:
    student.add_argument("--out", type=Path, required=True, help="folder to write to, new or empty")
    student.add_argument("--drop-hints", action="store_true", help="leave the hints out too")
    student.add_argument("--drop-outputs", action="store_true", help="leave out what the cells printed and drew")
    _add_lessons(student)


def _settings(pairs: Sequence[str]) -> dict[str, Any]:
    """``["n_steps=10", "decay=constant"]`` → ``{"n_steps": 10, "decay": "constant"}``."""
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"expected --set SETTING=VALUE, got {pair!r}")
        try:
            settings[name] = ast.literal_eval(
                {"true": "True", "false": "False", "none": "None"}.get(value.lower(), value)
            )
        except (ValueError, SyntaxError, TypeError):
            settings[name] = value
    return settings


def _load(name: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    """A shipped model, or one from a file, with its card."""
    return (zoo.load(name), zoo.card(name)) if not name.endswith(".safetensors") else zoo.load_file(name)


def _card(name: str) -> dict[str, Any]:
    return zoo.card(name) if not name.endswith(".safetensors") else zoo.load_file(name)[1]


def _check_model_options(options: argparse.Namespace, card: dict[str, Any]) -> None:
    """Refuse what cannot work before any work is done."""
    sampler = generation.sampler_of(card, options.solver)
    if sampler == "langevin":
        total, usual = 10_000, generation.LangevinSettings.of(card).steps
    elif sampler == "ddim":
        total, usual = zoo.schedule_of(card).n_steps, generation.DEFAULT_STEPS["discrete"]
    else:
        total, usual = 1000, generation.DEFAULT_STEPS["continuous"]
    if options.steps is None:
        options.steps = usual
    if not 1 <= options.steps <= total:
        raise ValueError(f"expected --steps from 1 to {total}, got {options.steps}")
    generation.n_states(card, options.steps, options.solver)  # knows which solver wants more
    if not 0 <= options.guidance <= 20:
        raise ValueError(f"expected --guidance from 0 to 20, got {options.guidance}")
    if options.guidance != 1 and not generation.n_classes(card):
        raise ValueError(f"expected no --guidance: {card['name']} knows no classes")


def _check_seed(option: str, seed: int) -> None:
    if not 0 <= seed < 2**63:
        raise ValueError(f"expected {option} from 0 to 2**63 - 1, got {seed}")


def _check_options(options: argparse.Namespace, card: dict[str, Any]) -> None:
    """The same for the options of ``sample``."""
    _check_model_options(options, card)
    for option, limit in LIMITS.items():
        if not 1 <= getattr(options, option) <= limit:
            raise ValueError(f"expected --{option} from 1 to {limit}, got {getattr(options, option)}")
    _check_seed("--seed", options.seed)
    states = generation.n_states(card, options.steps, options.solver)
    if options.film is not None and not 2 <= options.film <= states:
        raise ValueError(f"expected --film from 2 to {states} (states of {options.steps} steps), got {options.film}")
    _check_pixels(options, card)
    if options.out.suffix.lower() != ".png":
        raise ValueError(f"expected --out to end in .png, got {options.out}")


def _columns(options: argparse.Namespace) -> int:
    """Of the grid of pictures."""
    return options.film or max(1, round(options.n**0.5))


def _check_pixels(options: argparse.Namespace, card: dict[str, Any]) -> None:
    """Refuse a grid that is too large as a whole, its frames included."""
    columns, (height, width) = _columns(options), card["shape"][1:]
    rows = math.ceil(options.n * (options.film or 1) / columns)
    pixels = options.scale**2 * (rows * (height + 1) + 1) * (columns * (width + 1) + 1)
    if pixels > PIXELS:
        raise ValueError(f"expected at most {PIXELS:,} pixels, got {pixels:,}: lower --scale or --n")


def _check_out(out: Path, option: str = "--out") -> None:
    """Refuse a file that could not be written, and make its folder if it is missing."""
    if out.is_dir():
        raise ValueError(f"expected {option} to be a file, got the folder {out}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}."):
            pass
    except OSError as error:
        raise ValueError(f"expected {option} to be a file that can be written, got {out} ({error.strerror})") from error


def _class_number(label: str | None, card: dict[str, Any]) -> int | None:
    if label is None:
        return None
    n = generation.n_classes(card)
    names = data.CIFAR10.classes if n == len(data.CIFAR10.classes) else ()
    if label in names:
        return names.index(label)
    if label.isascii() and label.isdigit() and int(label) <= n and n:
        return int(label)
    known = ", ".join(names) if names else f"numbers from 0 to {n}" if n else f"no --class: {card['name']} knows none"
    raise ValueError(f"expected {'--class out of ' if names else ''}{known}, got {label!r}")


def _sample(options: argparse.Namespace) -> None:
    card = _card(options.name)
    _check_options(options, card)
    label = _class_number(options.label, card)
    _check_out(options.out)
    model, _ = _load(options.name)
    drawn = generation.draw(
        model,
        card,
        options.n,
        seed=options.seed,
        steps=options.steps,
        label=label,
        guidance=options.guidance,
        solver=options.solver,
        return_states=options.film is not None,
        progress=True,
    )
    images = drawn.images
    if options.film is not None:
        images = drawn.states[_moments(drawn, options.film)].transpose(0, 1).flatten(0, 1)
    grid = make_grid(data.to_uint8(images), nrow=_columns(options), padding=1, pad_value=255)
    grid = grid.repeat_interleave(options.scale, 1).repeat_interleave(options.scale, 2)
    content = io.BytesIO()
    to_pil_image(grid).save(content, format="PNG")
    training.write_atomically(options.out, content.getvalue())
    print(f"wrote {options.out}")


def _moments(drawn: generation.Drawn, n: int) -> torch.Tensor:
    """Which n states to show: different ones, the last among them."""
    if drawn.levels is None:  # Langevin dynamics
        return torch.linspace(0, len(drawn.states) - 1, n).round().long()
    # Evenly spaced in the noise's share: evenly spaced in t, most moments would look like pure noise.
    noise = (drawn.levels * (1 + drawn.levels**2).rsqrt()).tolist()
    chosen: list[int] = []
    for k in range(n):
        places = range(chosen[-1] + 1 if chosen else 0, len(noise) - (n - 1 - k))  # leaves one for each that follows
        chosen.append(min(places, key=lambda i: abs(noise[i] - (1 - k / (n - 1)))))
    return torch.tensor(chosen)


def _check_evaluation(options: argparse.Namespace, card: dict[str, Any]) -> None:
    """Refuse images that ``evaluate`` could not measure before they are drawn."""
    _check_model_options(options, card)
    if list(card["shape"]) != [3, 32, 32]:
        raise ValueError(f"expected a model of pictures of shape [3, 32, 32], got {card['name']} of {card['shape']}")
    if options.n < 100:
        raise ValueError(f"expected --n of at least 100, got {options.n}")
    for seed in options.seeds:
        _check_seed("--seeds", seed)
    if options.pooled is not None and len(set(options.seeds)) < len(options.seeds):
        raise ValueError(f"expected different --seeds for --pooled, got {' '.join(map(str, options.seeds))}")
    most = options.n * len(options.seeds)
    if options.pooled is not None and not options.n < options.pooled <= most:
        raise ValueError(f"expected --pooled above --n and at most {most}, all that is drawn, got {options.pooled}")
    evaluation.packages.needed("prdc", "prdc", "evaluate")
    if generation.n_classes(card):
        evaluation.shipped_cifarnet()


def _evaluate(options: argparse.Namespace) -> None:
    card = _card(options.name)
    _check_evaluation(options, card)
    spaces = {name: (evaluation.load_reference(name), evaluation.load_features(name)) for name in options.features}
    if options.out is not None:
        _check_out(options.out)
    about = {key: card.get(key) for key in ("name", "sha256", "images_seen", "minutes", "parameters")}
    settings = {
        "n": options.n,
        "steps": options.steps,
        "guidance": options.guidance,
        "solver": generation.sampler_of(card, options.solver),
        "precision": options.precision,
    }
    result = {"benchmark": "evaluation", "model": about, "settings": settings, "rows": []}
    done = 0
    try:
        for seeds, rows in _measured(options, card, spaces):
            if isinstance(seeds, int):
                result["rows"] += [{"seed": seeds, **row} for row in rows]
            else:
                result["pooled"] = [{"seeds": seeds, **row} for row in rows]
            if options.out is not None:
                training.write_atomically(options.out, (json.dumps(result, indent=2) + "\n").encode())
                done += isinstance(seeds, int)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"{options.out} holds {done} of {len(options.seeds)} seeds" if done else "") from error
    if options.out is not None:
        print(f"wrote {options.out}")


def _measured(
    options: argparse.Namespace,
    card: dict[str, Any],
    spaces: dict[str, tuple[evaluation.Reference, evaluation.Features]],
) -> Iterator[tuple[int | list[int], list[dict[str, Any]]]]:
    """A row for each feature space, seed by seed, and then of some seeds together; also printed."""
    model = _load(options.name)[0].to(memory_format=torch.channels_last)
    chosen = {"steps": options.steps, "guidance": options.guidance, "solver": options.solver}
    classes = generation.n_classes(card)
    labels = torch.arange(options.n) % classes if classes else None

    def rows_of(who: str, images: torch.Tensor, labels: torch.Tensor | None) -> list[dict[str, Any]]:
        rows = []
        for reference, features in spaces.values():
            row = evaluation.evaluate_images(images, reference, features=features, labels=labels)
            rows.append(row)
            print(f"{who}  {row['label']} {row['frechet_distance']:.2f}  (N = {len(images)})", flush=True)
        return rows

    drawn = []
    for seed in options.seeds:
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bfloat16"):
            images = generation.draw(model, card, options.n, seed=seed, **chosen, progress=True).images.float()
        yield seed, rows_of(f"seed {seed}", images, labels)
        if options.pooled is not None:
            drawn.append(data.to_uint8(images))
    if options.pooled is not None:
        n = options.pooled
        seeds = options.seeds[: -(-n // options.n)]
        together = None if labels is None else labels.repeat(len(seeds))[:n]
        yield seeds, rows_of(f"seeds {', '.join(map(str, seeds))}", torch.cat(drawn)[:n], together)


def _typed(options: argparse.Namespace) -> str:
    """The command for the card: all that decides what is learned; of paths only the last part."""
    words = ["python", "-m", "helpers", "train", options.name]
    for key in ("images", "start"):
        if (path := getattr(options, key)) is not None:
            words += [f"--{key}", path.name]
    if options.size is not None:
        words += ["--size", str(options.size)]
    for pair in options.set:
        words += ["--set", pair]
    return shlex.join(words)


def _train(options: argparse.Namespace) -> None:
    chosen = {key: value for key in ("images", "size", "start") if (value := getattr(options, key)) is not None}
    if options.size is not None and (options.size < 4 or options.size % 4):
        raise ValueError(f"expected --size divisible by 4, got {options.size}")
    engine = training.accelerator() if training.is_launched() else None
    path = recipes.run(
        options.name, options.out, changes=_settings(options.set), command=_typed(options), accelerator=engine, **chosen
    )
    if engine is None or engine.is_main_process:
        print(f"wrote {path} and its card")


def _serve(options: argparse.Namespace) -> None:
    try:
        from . import serving
    except ModuleNotFoundError as error:
        raise ImportError(f"{error.name} is missing: install the extra, pip install '.[serve]'") from error
    names = ("host", "port", "models_dir", "models", "threads")
    serving.serve(serving.Settings(**{name: value for name in names if (value := getattr(options, name)) is not None}))


def _export(options: argparse.Namespace) -> None:
    from . import export

    out = options.out or Path(Path(options.name).stem + ".onnx")
    model, card = _load(options.name)
    export.save(model, card, out)
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")


def _grade(options: argparse.Namespace) -> int:
    lessons = teaching.find_lessons(options.lessons)
    paths = teaching.find_notebooks(options.notebooks)
    if not paths:
        raise ValueError(f"expected notebooks, found none in {', '.join(map(str, options.notebooks))}")
    limits = {"seconds": options.seconds, "memory": options.memory}
    if not teaching.memory_is_limited():
        print("note: this system cannot limit a process's memory; --memory has no effect", file=sys.stderr)
    for option in ("csv", "json"):
        if (file := getattr(options, option)) is not None:
            _check_out(file, f"--{option}")
    reports: list[teaching.Report] = []
    try:
        for path in paths:
            reports.append(teaching.grade(path, lessons, **limits))
            print(teaching.as_text(reports[-1:]), flush=True)
    except KeyboardInterrupt as error:
        if reports:
            _store_marks(options, reports, limits)
        raise KeyboardInterrupt(f"{len(reports)} of {len(paths)} notebooks were graded") from error
    if len(reports) > 1:
        print(teaching.as_overview(reports))
    _store_marks(options, reports, limits)
    return int(any(report.problem for report in reports))


def _store_marks(
    options: argparse.Namespace, reports: Sequence[teaching.Report], limits: Mapping[str, float | int]
) -> None:
    """Write the files that were asked for."""
    for file, content in (
        (options.csv, "\ufeff" + teaching.as_csv(reports)),  # the mark tells spreadsheets that it is UTF-8
        (options.json, teaching.as_json(reports, **limits)),
    ):
        if file is not None:
            training.write_atomically(file, content.encode("utf-8", "backslashreplace"))
            print(f"wrote {file}")


def _student(options: argparse.Namespace) -> None:
    written = teaching.student_edition(
        teaching.find_lessons(options.lessons),
        options.out,
        hints=not options.drop_hints,
        outputs=not options.drop_outputs,
    )
    n = sum(path.suffix == ".ipynb" for path in written)
    print(f"wrote {n} lessons without solutions, and {len(written) - n} pages and pictures, to {options.out}")


def _describe(name: str | None) -> None:
    if name is not None:
        print(json.dumps(zoo.card(name), indent=2, ensure_ascii=False))
        return
    for recipe in recipes.RECIPES.values():
        shipped = "ships" if recipe.name in zoo.available() else "not shipped"
        print(f"{recipe.name}  ({shipped}; training: {recipe.expect})\n    {recipe.summary}")


def _left(options: argparse.Namespace) -> str:
    """What an interruption leaves behind, in words."""
    folder = options.out / options.name if options.command == "train" else None
    if folder is not None and (folder / "checkpoint.safetensors").exists():
        return f"the state is kept in {folder}, and the same command goes on"
    if options.command == "student" and options.out.exists() and any(options.out.iterdir()):
        return f"{options.out} holds a part: remove it and start anew"
    return "nothing was written"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0; 2 after a message about wrong input; 1 if training diverged or a notebook could not be graded;
        130 if it was interrupted.
    """
    for stream in (sys.stdout, sys.stderr):  # of a console that has not all letters, or a learner who wrote others
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    try:
        if options.command == "train":
            _train(options)
        elif options.command == "sample":
            _sample(options)
        elif options.command == "evaluate":
            _evaluate(options)
        elif options.command == "export":
            _export(options)
        elif options.command == "serve":
            _serve(options)
        elif options.command == "grade":
            return _grade(options)
        elif options.command == "student":
            _student(options)
        else:
            _describe(options.name)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except training.TrainingDiverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"interrupted: {str(error) or _left(options)}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
