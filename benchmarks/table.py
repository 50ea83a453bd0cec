"""Make the tables of ``book/benchmarks.md`` out of the results in ``helpers/results``.

::

    python benchmarks/table.py            # writes between the two markers of the page
    python benchmarks/table.py --check    # says only whether the page is up to date

Every number in the tables comes from there; a table that was not measured is said to be missing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import RESULTS, read_json

import helpers.evaluation.references
from helpers.training import write_atomically

__all__ = ["BEGIN", "END", "between", "main", "render"]

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "book" / "benchmarks.md"
REFERENCES = Path(helpers.evaluation.references.__file__).parent
BEGIN, END = "<!-- tables: begin (python benchmarks/table.py) -->", "<!-- tables: end -->"
MISSING = "This was not measured yet."

Result = Mapping[str, Any]


# --- pieces


def _table(head: Sequence[str], body: Iterable[Sequence[str]], words: int = 1) -> str:
    """A Markdown table: the first ``words`` columns to the left, the others, of numbers, to the right."""
    lines = [head, [*[":--"] * words, *["--:"] * (len(head) - words)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float, digits: int = 3) -> str:
    """So many significant digits, never in powers of ten."""
    if value == 0:
        return "0"
    text = f"{value:.{digits}g}"
    return f"{float(text):,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{float(text):#.{digits}g}".rstrip(".")


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _spread(summary: Mapping[str, float], digits: int = 3) -> str:
    """Median (first to third quartile)."""
    low, high = _number(summary["q1"], digits), _number(summary["q3"], digits)
    return f"{_number(summary['median'], digits)} ({low}–{high})"


def _title(name: str, models: Result) -> str:
    version = models[name]["version"]
    return models[name]["title"] + (f" {version}" if models[name]["package"] else "")


def _machine(result: Result) -> str:
    info = result["machine"]
    return (
        f"Measured on {info['processor']} ({info['instructions']}), {_count(info['threads'], 'thread')} on "
        f"{_count(info['cores'], 'core')}, PyTorch {info['torch']}, Python {info['python']}, {info['system']}."
        + _load(info)
    )


def _load(info: Result) -> str:
    load = info.get("load_at_start")
    return "" if load is None else f"\nThe load of the machine was {load:.1f} when it started."


def _product(result: Result) -> str:
    rate = _number(result["matrix_product"]["median"] / 1e9)
    size = result["settings"].get("matrix", 2048)
    return f"The {size}³ bfloat16 matrix product ran at {rate} GFLOP/s (median)."


def _paths(result: Result) -> list[str]:
    return list(dict.fromkeys(row["path"] for row in result["rows"] if row["path"] in result["paths"]))


def _skipped(result: Result) -> list[str]:
    return [f"Left out: {reason}." for reason in result.get("skipped", {}).values()]


# --- training


def training(result: Result | None) -> str:
    """Networks, and a table for each path."""
    if result is None:
        return MISSING
    models, settings = result["models"], result["settings"]
    networks = _table(
        ["network", "GFLOP an image", "of ours", "parameters"],
        (
            [_title(name, models), f"{info['gflop']:.3f}", f"{info['of_ours']:.2f}", f"{info['parameters']:,}"]
            for name, info in models.items()
        ),
    )
    rounds, steps = _count(result["rounds_made"], "round"), _count(settings["steps"], "step")
    parts = [
        f"{_machine(result)}\nBatches of {settings['batch']}, {rounds} of {steps}; medians with quartiles.\n"
        f"{_product(result)}",
        networks,
    ]
    for path in _paths(result):
        rows = [row for row in result["rows"] if row["path"] == path]
        parts += [f"**{result['paths'][path]}**", _training_rows(rows, models)]
        parts += _against_peers(rows, models)
    return "\n\n".join([*parts, *_skipped(result)])


def _training_rows(rows: Sequence[Result], models: Result) -> str:
    body = []
    for row in rows:
        equal = row["at_equal_flops"]
        scaled = _number(equal["median"]) if equal and models[row["model"]]["equal_flops"] else "–"
        share = row["share_of_matrix_product"]
        quartiles = f"{share['median']:.2f} ({share['q1']:.2f}–{share['q3']:.2f})"
        body.append([_title(row["model"], models), _spread(row["images_per_second"]), scaled, quartiles])
    return _table(["network", "images/s", "images/s at our FLOPs", "share of the matrix product"], body)


def _against_peers(rows: Sequence[Result], models: Result) -> list[str]:
    """One sentence: how our network compares with the fastest peer of the same cost."""
    compared = [row for row in rows if models[row["model"]]["equal_flops"] and row["at_equal_flops"]]
    own = [row for row in compared if models[row["model"]]["package"] is None]
    peers = [row for row in compared if models[row["model"]]["package"] is not None]
    if not own or not peers:
        return []
    best = max(peers, key=lambda row: row["at_equal_flops"]["median"])
    cost = models[best["model"]]["gflop"] / models[own[0]["model"]]["gflop"]
    ratios = [peer / ours / cost for ours, peer in zip(own[0]["seconds"], best["seconds"], strict=True)]
    share = best["share_of_matrix_product"]["median"]
    return [
        f"At equal FLOPs, ours trains on {statistics.median(ratios):.2f} times the images of the fastest peer, "
        f"{best['model']} (median of the rounds' ratios, from {min(ratios):.2f} to {max(ratios):.2f}).\n"
        f"That peer computes at {share:.2f} of the rate of the matrix product, so a network at all of it would train "
        f"on {1 / share:.2f} times the peer's images."
    ]


# --- sampling


def sampling(result: Result | None) -> str:
    """Evaluations, whole samples, and bare loops."""
    if result is None:
        return MISSING
    parts = [
        f"{_machine(result)}\n{_count(result['settings']['rounds'], 'round')}; medians with quartiles.\n"
        f"{_product(result)}"
    ]
    makers = {"network": _evaluations, "sample": _samples, "loop": _loops}
    missing = {"network": "One evaluation of the network", "sample": "A whole sample", "loop": "The loop alone"}
    for section, make in makers.items():
        rows = [row for row in result["rows"] if row["section"] == section]
        parts += make(result, rows) if rows else [f"**{missing[section]}**", MISSING]
    return "\n\n".join([*parts, *_skipped(result)])


def _by(rows: Iterable[Result], *keys: str) -> dict[tuple[Any, ...], Result]:
    return {tuple(row[key] for key in keys): row for row in rows}


def _values(rows: Iterable[Result], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))


def _evaluations(result: Result, rows: Sequence[Result]) -> list[str]:
    parts, batches, found = [], _values(rows, "batch"), _by(rows, "path", "model", "batch")
    for path in _values(rows, "path"):
        body = [
            [_title(name, result["models"])]
            + [_spread(found[path, name, batch]["images_per_second"]) for batch in batches]
            for name in _values(rows, "model")
        ]
        head = ["images/s of one evaluation", *(f"batch {batch}" for batch in batches)]
        parts += [f"**One evaluation of the network, {result['paths'][path]}**", _table(head, body)]
    return parts


def _samples(result: Result, rows: Sequence[Result]) -> list[str]:
    parts, batches, found = [], _values(rows, "batch"), _by(rows, "path", "model", "loop", "evaluations", "batch")
    for path in _values(rows, "path"):
        body = []
        for name, loop, n in dict.fromkeys((row["model"], row["loop"], row["evaluations"]) for row in rows):
            seconds = [_spread(found[path, name, loop, n, batch]["seconds"]) for batch in batches]
            body.append([_title(name, result["models"]), result["loops"][loop], str(n), *seconds])
        head = ["network", "sampler", "evaluations", *(f"s, batch {batch}" for batch in batches)]
        parts += [f"**A whole sample, {result['paths'][path]}**", _table(head, body, words=2)]
    return parts


def _loops(result: Result, rows: Sequence[Result]) -> list[str]:
    batches, found = _values(rows, "batch"), _by(rows, "loop", "evaluations", "batch")
    body = []
    for loop, n in dict.fromkeys((row["loop"], row["evaluations"]) for row in rows):
        each = [_spread(found[loop, n, batch]["milliseconds_per_evaluation"]) for batch in batches]
        body.append([result["loops"][loop], str(n), *each])
    head = ["ms an evaluation, idle network", "evaluations", *(f"batch {batch}" for batch in batches)]
    version = f" (diffusers {result['diffusers']})" if result["diffusers"] else ""
    return [f"**The loop alone{version}**", _table(head, body)]


# --- quality


def quality(result: Result | None, references: Path = REFERENCES) -> str:
    """A row for each variant, and real images, whole and spoilt, for scale."""
    if result is None:
        return MISSING
    settings = result["settings"]
    measured = [row for entry in result["variants"].values() for row in entry["evaluations"]]
    spaces = dict.fromkeys((row["features"], row["label"]) for row in measured)
    clock = {"wall": "on the clock", "cpu": "of processor time a thread"}[settings["clock"]]
    seeds = len({row["seed"] for row in measured})
    head = ["variant", "steps", "images seen", "minutes", *(label for _, label in spaces), "class accuracy"]
    body = [_variant(entry, [name for name, _ in spaces], settings["clock"]) for entry in result["variants"].values()]
    body += _scale(settings["n"], [name for name, _ in spaces], references)
    return "\n\n".join(
        [
            f"{_machine(result)}\nEach variant made as many steps as were expected to take "
            f"{settings['minutes']:g} minutes {clock}; what they took is in the column *minutes*.\n"
            f"{settings['n']:,} images for each of {_count(seeds, 'sampling seed')}, mean (least–greatest) over seeds.",
            *_paces(result),
            _table(head, body),
        ]
    )


def _paces(result: Result) -> list[str]:
    """A sentence for each variant whose pace is known relative to another's only."""
    variants, clock = result["variants"], result["settings"]["clock"]
    return [
        f"*{entry['title']}* was trained on another day, on {pace['machine']['processor']} "
        f"({pace['machine']['instructions']}), and the minutes of its row are that machine's.\n"
        f"What makes the comparison fair is a ratio: in turns, a step of it took {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f}–{max(ratios):.2f}) times as long there as one of *{variants[pace['of']]['title']}*, "
        f"so this is how many of its steps fit into the same time."
        for entry in variants.values()
        if (pace := entry.get("pace")) and (ratios := pace["ratios"][clock])
    ]


def _range(values: Sequence[float], digits: int) -> str:
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def _variant(entry: Result, spaces: Sequence[str], clock: str) -> list[str]:
    trained, rows = entry.get("training"), entry["evaluations"]
    seen = (
        [f"{trained['images_seen']:,}", f"{_minutes(trained, entry['n_steps'], clock):.1f}"] if trained else ["–", "–"]
    )
    steps = f"{entry['n_steps']:,}" if "n_steps" in entry else "–"
    distances = [_range([r["frechet_distance"] for r in rows if r["features"] == name], 1) for name in spaces]
    accuracy = {row["seed"]: row["class_accuracy"] for row in rows if "class_accuracy" in row}
    return [entry["title"], steps, *seen, *distances, _range(list(accuracy.values()), 3)]


def _minutes(trained: Result, n_steps: int, clock: str) -> float:
    """On the clock of the comparison; on the wall where processor time is known of the last session only."""
    return trained["cpu_minutes"] if clock == "cpu" and trained["session_steps"] == n_steps else trained["minutes"]


def _scale(n: int, spaces: Sequence[str], references: Path) -> list[list[str]]:
    """Rows of real images, as many as were drawn, from the calibrations that ship with the references."""
    known: dict[str, dict[str, float]] = {}
    for space in spaces:
        calibration = read_json(references / f"calibration-{space}.json") or {"rows": []}
        for row in calibration["rows"]:
            if row["n"] == n:
                known.setdefault(row["images"], {})[space] = row["frechet_distance"]
    return [
        [f"*{images}*", "–", "–", "–", *(_range([found[s]] if s in found else [], 1) for s in spaces), "–"]
        for images, found in known.items()
    ]


# --- evaluations of the network


def few_evaluations(result: Result | None) -> str:
    """A row for each number of evaluations, a column for each solver and space; then the rows of ten."""
    if result is None:
        return MISSING
    settings, rows = result["settings"], result["rows"]
    found = {(row["label"], row["solver"], row["evaluations"]): row["frechet_distance"] for row in rows}
    labels = list(dict.fromkeys(row["label"] for row in rows))
    solvers = list(dict.fromkeys(row["solver"] for row in rows))
    counts = sorted({row["evaluations"] for row in rows})
    head = ["evaluations", *(f"{label}, {solver}" for label in labels for solver in solvers)]
    body = [
        [
            str(count),
            *(
                f"{found[label, solver, count]:.1f}" if (label, solver, count) in found else "–"
                for label in labels
                for solver in solvers
            ),
        ]
        for count in counts
    ]
    guidance = "" if settings["guidance"] == 1 else f", guidance {settings['guidance']:g}"
    sentences = [_at_ten(label, found) for label in labels]
    return "\n\n".join(
        [
            f"`{result['model']['name']}` after {result['model']['images_seen']:,} images; {settings['n']:,} samples "
            f"from the noise of seed {settings['seed']}{guidance}.",
            _table(head, body),
            *[sentence for sentence in sentences if sentence],
        ]
    )


def _at_ten(label: str, found: Mapping[tuple[str, str, int], float]) -> str:
    """How the best of ten evaluations compares with the best of any number."""
    ten = {solver: value for (name, solver, count), value in found.items() if name == label and count == 10}
    if not ten:
        return ""
    value, count = min((value, count) for (name, _, count), value in found.items() if name == label)
    solver = min(ten, key=ten.__getitem__)
    return (
        f"{label} at ten evaluations is {ten[solver] / value:.2f} times the best at any number "
        f"({solver}: {ten[solver]:.1f}; {count} evaluations: {value:.1f})."
    )


# --- contrastive divergence


def contrastive(result: Result | None) -> str:
    """A row for each variant's settings."""
    if result is None:
        return MISSING
    settings = result["settings"]
    body = [
        [row["title"], f"{row['buffer']:.0f}", f"{row['fresh']:.0f}", f"{row['cpu_seconds']:.0f}"]
        for row in result["rows"].values()
    ]
    return (
        f"{_machine(result)}\n{settings['steps']:,} updates of each variant, from weights that had seen "
        f"{settings['images_seen']:,} images; FD-EffNetLite0 of {settings['n']:,} images.\n\n"
        + _table(["settings", "chains of the buffer", "new chains", "processor seconds"], body)
    )


# --- the page


def render(results: Path = RESULTS, references: Path = REFERENCES) -> str:
    """All tables, as Markdown.

    Raises:
        ValueError: If a results file cannot be read.
    """

    def load(name: str) -> Result | None:
        return read_json(results / f"{name}.json")

    return "\n\n".join(
        [
            "## Training steps",
            training(load("training_throughput")),
            "## Sampling",
            sampling(load("sampling")),
            "## How many evaluations a picture needs",
            few_evaluations(load("few_evaluations")),
            "## Quality at equal time",
            quality(load("quality_at_equal_time"), references),
            "## Candidates for the fast U-Net",
            quality(load("candidates"), references),
            "## Two ways to train an energy",
            quality(load("energies_at_equal_time"), references),
            "## Settings of contrastive divergence",
            contrastive(load("contrastive_settings")),
        ]
    )


def between(page: str, tables: str) -> str:
    """The page with ``tables`` between its markers.

    Raises:
        ValueError: If the page does not have both markers, once each and in this order.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ValueError(f"expected a page with the lines {BEGIN!r} and {END!r}")
    head, tail = page.split(BEGIN)[0], page.split(END)[1]
    return f"{head}{BEGIN}\n\n{tables}\n\n{END}{tail}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or check it; returns the exit code: 1 for a page that is out of date, 2 for wrong input."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is out of date")
    options = parser.parse_args(arguments)
    try:
        page = options.page.read_text("utf-8")
        new = between(page, render(options.results))
        if options.check:
            print(f"{options.page.name} is {'up to date' if new == page else 'out of date'}")
            return int(new != page)
        write_atomically(options.page, new.encode())
    except KeyError as error:
        print(f"error: expected results with the entry {error}, got a file without it", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.page.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
