"""The book's own Sphinx extensions: pages that are made of stored results, and what is mended in finished pages."""

from __future__ import annotations

import doctest
import importlib.util
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from _notebooks import LESSONS, REPOSITORY, ROOT

EXTENSIONS = ("accessible", "charts", "lean", "results", "run_times", "sharing")


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports an extension by its name, as Sphinx does."""
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    return importlib.import_module


@pytest.mark.parametrize("name", EXTENSIONS)
def test_examples_in_docstrings_are_true(extension: Callable[[str], ModuleType], name: str) -> None:
    outcome = doctest.testmod(extension(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert outcome.failed == 0


# --- results


def card(name: str, sha256: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "summary": f"A model called {name}.",
        "architecture": {"name": "SimpleUNet", "arguments": {}},
        "parameters": 1234567,
        "schedule": None,
        "data": "Digits; SHA-256 of the pixels 0123",
        "config": {
            "n_steps": 100,
            "batch_size": 64,
            "learning_rate": 2e-3,
            "warmup_steps": 1,
            "decay": "cosine",
            "ema_half_life": 500,
            "precision": "float32",
            "seed": 42,
            "optimizer": "muon" if name == "one" else "adamw",
        },
        "images_seen": 6400,
        "minutes": 0.5,
        "metrics": {"final_loss": 0.25, "auroc_noise": 0.875},
        "command": f"python -m helpers train {name}",
        "limits": "Toy data.",
        "versions": {"helpers": "0.1.0"},
        "sha256": sha256,
        **more,
    }


def evaluation(name: str, sha256: str) -> dict[str, Any]:
    row = {"features": "space", "label": "FD-Space", "n": 5000, "kernel_distance": 2.5}
    rows = [{**row, "seed": 0, "frechet_distance": 20.0}, {**row, "seed": 1, "frechet_distance": 22.0}]
    settings = {"n": 5000, "steps": 18, "guidance": 1.5}
    return {
        "benchmark": "evaluation",
        "model": {"name": name, "sha256": sha256},
        "settings": settings,
        "rows": rows,
        "pooled": [{**row, "seeds": [0, 1], "n": 10_000, "frechet_distance": 18.5}],
    }


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with two models, one of them measured, and a measurement of weights that ship no more."""
    for folder in ("weights", "results/logs", "evaluation/references"):
        (tmp_path / "helpers" / folder).mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()

    def write(path: str, content: Any) -> None:
        (tmp_path / path).write_text(json.dumps(content), "utf-8")

    for name, sha in (("one", "a" * 64), ("two", "b" * 64)):
        write(f"helpers/weights/{name}.json", card(name, sha))
        (tmp_path / "helpers" / "weights" / f"{name}.safetensors").touch()
    write("helpers/weights/without-weights.json", card("without-weights", "c" * 64))
    write("helpers/results/evaluation-one.json", evaluation("one", "a" * 64))
    write("helpers/results/evaluation-two.json", evaluation("two", "0" * 64))
    calibration = [
        {"images": "training images 0 to 4999", "n": 5000, "frechet_distance": 3.25},
        {"images": "training images 0 to 1999", "n": 2000, "frechet_distance": 9.75},
        {"images": "training images 0 to 9999", "n": 10_000, "frechet_distance": 1.25},
    ]
    write("helpers/evaluation/references/calibration-space.json", {"rows": calibration})
    entries = [{"images": 100 * k, "loss": 1 / k, "grad_norm": 1.0} for k in range(1, 1001)]
    log = "\n".join(map(json.dumps, entries)) + "\n"
    (tmp_path / "helpers" / "results" / "logs" / "one.jsonl").write_text(log, "utf-8")
    cells = [
        {"cell_type": "markdown", "source": ["# 5. Fifth\n"]},
        {
            "cell_type": "markdown",
            "source": ["*About 80 minutes of reading and trying out · exercises 50 minutes · difficulty ●●○*"],
        },
        {"cell_type": "code", "source": ['zoo.load("one")']},
    ]
    write("notebooks/05_fifth.ipynb", {"cells": cells})
    return tmp_path


def test_results_show_what_is_stored_and_nothing_else(extension: Callable[[str], ModuleType], project: Path) -> None:
    results = extension("results")
    page = "\n".join(f"<!-- results: {name} -->" for name in results.SECTIONS)
    text = results.fill(page, results.Stored(project))
    assert "### one" in text
    assert "### two" in text
    assert "without-weights" not in text
    assert "python -m helpers train two" in text
    assert "| **its samples** | 21.0 (20.0–22.0) |" in text
    assert "| training images 0 to 4999 | 3.25 |" in text
    assert "9.75" not in text  # of another number of pictures
    assert "10,000 samples of the seeds 0 and 1 together: FD-Space 18.5 (training images: 1.25)." in text
    assert "5,000 samples for each of 2 seeds (18 steps, guidance 1.50)" in text
    assert text.count("its samples**") == 1  # the other measurement is of older weights
    assert "100 steps of 64; Muon and AdamW, rate 0.002" in text
    assert "100 steps of 64; AdamW, rate 0.002" in text
    assert "AUROC against real pictures: noise (0.5 is chance) | 0.875 |" in text
    assert "[5](../notebooks/05_fifth.ipynb)" in text
    assert "The same time for everybody" not in text
    assert "## Speed" not in text


def test_results_of_an_empty_project_are_an_empty_page(extension: Callable[[str], ModuleType], tmp_path: Path) -> None:
    results = extension("results")
    page = "\n".join(f"<!-- results: {name} -->" for name in results.SECTIONS)
    assert results.fill(page, results.Stored(tmp_path)).strip() == ""


def test_results_refuse_an_unknown_section(extension: Callable[[str], ModuleType]) -> None:
    results = extension("results")
    with pytest.raises(ValueError, match=r"expected one of models, .*'<!-- results: nothing -->'"):
        results.fill("<!-- results: nothing -->", results.Stored())


def test_comparison_at_equal_time_is_drawn_and_tabled(extension: Callable[[str], ModuleType], project: Path) -> None:
    results = extension("results")
    row = {"features": "space", "label": "FD-Space", "seed": 0}
    variants = {
        name: {"title": f"Variant {name}", "n_steps": 10, "evaluations": [{**row, "frechet_distance": distance}]}
        for name, distance in (("slow", 30.0), ("fast", 15.0))
    }
    settings = {"minutes": 60, "clock": "wall", "n": 5000, "threads": 2}
    machine = {"processor": "P", "instructions": "I", "threads": 2, "cores": 2}
    machine |= {"torch": "2", "python": "3", "system": "S"}
    content = {"benchmark": "quality_at_equal_time", "machine": machine, "settings": settings, "variants": variants}
    (project / "helpers" / "results" / "quality_at_equal_time.json").write_text(json.dumps(content), "utf-8")
    text = results.equal_time(results.Stored(project))
    assert 'aria-label="FD-Space: Variant slow 30.0, Variant fast 15.0."' in text
    assert "| Variant fast | 10 |" in text


def test_shipped_results_make_figures_that_parse(extension: Callable[[str], ModuleType]) -> None:
    """Ids are of one figure each, colours are the page's, and every figure says in words what it shows."""
    results = extension("results")
    text = results.fill("\n".join(f"<!-- results: {name} -->" for name in results.SECTIONS), results.Stored())
    figures = re.findall(r"<figure class=\"course-chart\">.*?</figure>", text, re.DOTALL)
    assert len(figures) >= 3
    ids: list[str] = []
    for figure in figures:
        assert "\n\n" not in figure  # Markdown would end it there
        root = ET.fromstring(figure)
        assert root.find(".//svg").attrib["aria-label"]
        assert root.find("figcaption").text
        ids += [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
        assert "var(--chart-1)" in figure
        assert not re.search(r"#(010101|0101f0|f00101|808081|000000)", figure)
    assert len(ids) == len(set(ids))


def test_dots_want_the_same_rows_in_every_panel(extension: Callable[[str], ModuleType]) -> None:
    charts = extension("charts")
    row = charts.Dot("a", 1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="expected the same rows in every panel"):
        charts.dots({"x": [row], "y": []})
    figure = charts.dots({"x": [charts.Dot("a", 345.0, 345.0, 345.0), charts.Dot("b", 518.0, 518.0, 518.0)]})
    left, right = figure.axes[0].get_xlim()
    assert left == 0
    assert right > 1.05 * 518  # no dot is cut off by the frame


# --- run times


def test_run_times_without_a_measurement_are_the_readers(extension: Callable[[str], ModuleType], project: Path) -> None:
    table = extension("run_times").table(project)
    assert "| [5. Fifth](../notebooks/05_fifth.ipynb) | 80\xa0min | 50\xa0min |" in table
    assert "run time" not in table


@pytest.mark.parametrize(("code", "mark"), [("same", ""), ("other", r" \*")])
def test_run_times_say_what_was_measured_of_which_code(
    extension: Callable[[str], ModuleType], project: Path, code: str, mark: str
) -> None:
    run_times = extension("run_times")
    _, _, now = run_times._lesson(project / "notebooks" / "05_fifth.ipynb")
    longest = {"number": 3, "seconds": 4.25, "line": "a | b"}
    row = {"lesson": "05_fifth", "code": now if code == "same" else code, "cells": 9, "seconds": 61.2}
    machine = {"processor": "P", "instructions": "I", "threads": 2, "cores": 2, "system": "S", "python": "3"}
    content = {
        "machine": machine,
        "settings": {"packages": {"torch": "2.0+cpu"}},
        "rows": [{**row, "longest": longest}],
    }
    (project / "helpers" / "results" / "run_times.json").write_text(json.dumps(content), "utf-8")
    table = run_times.table(project)
    assert f"| 80\xa0min | 50\xa0min | 61\xa0s{mark} | 4.2\xa0s | `a ¦ b` |" in table
    assert "torch 2.0." in table
    assert ("An asterisk" in table) == bool(mark)


def test_every_lesson_promises_its_time(extension: Callable[[str], ModuleType]) -> None:
    run_times = extension("run_times")
    promised = {name: run_times._lesson(ROOT / "notebooks" / f"{name}.ipynb")[1] for name in LESSONS}
    assert {name: words for name, words in promised.items() if "–" in words} == {}


def test_hash_of_code_is_the_measurements(
    extension: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page and the command that measures tell versions of a lesson apart in the same way."""
    path = ROOT / "notebooks" / f"{LESSONS[0]}.ipynb"
    page = extension("run_times")._lesson(path)[2]
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("run_times_command", ROOT / "benchmarks" / "run_times.py")
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    assert command.code_hash(json.loads(path.read_text("utf-8"))) == page
    assert doctest.testmod(command).failed == 0
    assert command.main(["99_nothing"]) == 2


# --- sharing


def test_address_of_the_pages_follows_from_the_repository(extension: Callable[[str], ModuleType]) -> None:
    owner, name = REPOSITORY.rstrip("/").split("/")[-2:]
    assert extension("sharing").address_of(REPOSITORY) == f"https://{owner.lower()}.github.io/{name}/"
