"""helpers.results: stored measurements are found, and say where they are from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from _notebooks import ROOT

from helpers import results, zoo

FOLDER = ROOT / "helpers" / "results" / "logs"
LOGS = sorted(path.stem for path in FOLDER.glob("*.jsonl"))
EARLIER = sorted({path.name.split(".")[0] for path in (FOLDER / "earlier").glob("*")})


@pytest.mark.parametrize("name", results.names())
def test_results_are_json_that_says_what_was_measured_and_how(name: str) -> None:
    stored = results.load(name)
    assert {"benchmark", "settings"} <= set(stored)
    assert stored["settings"]


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(FileNotFoundError, match=r"expected results of one of .*training_throughput.*, got 'speed'"):
        results.load("speed")
    with pytest.raises(FileNotFoundError, match=r"expected the log of one of .*cifar10-edm.*, got 'mnist'"):
        results.log("mnist")


@pytest.mark.parametrize("name", LOGS)
def test_a_log_runs_forward_and_belongs_to_weights(name: str) -> None:
    log = results.log(name)
    steps = [entry["step"] for entry in log]
    assert steps == sorted(set(steps))
    for entry in log:
        assert {"step", "images", "loss", "grad_norm", "learning_rate", "seconds"} <= set(entry)
    card = zoo.card(name)
    before = card.get("went_on_from", [{"images_seen": 0}])[-1]["images_seen"]
    assert card["images_seen"] == before + log[-1]["images"]


def test_logs_of_several_trainings_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "earlier").mkdir()

    def write(file: str, *entries: tuple[int, int, float]) -> None:
        lines = [json.dumps(dict(zip(("step", "images", "seconds"), entry, strict=True))) for entry in entries]
        (tmp_path / file).write_text("\n".join(lines) + "\n", "utf-8")

    write("net.jsonl", (1, 10, 3.0), (2, 20, 6.0))
    write("earlier/net.2.jsonl", (1, 100, 5.0))
    write("earlier/net.1.jsonl", (5, 50, 2.5), (7, 70, 4.0))
    write("earlier/network.1.jsonl", (1, 1, 1.0))
    monkeypatch.setattr(results, "_logs", lambda: tmp_path)
    keys = ("stage", "step", "images", "seconds")
    assert [tuple(entry[key] for key in keys) for entry in results.log_of_all("net")] == [
        (1, 5, 50, 2.5),
        (1, 7, 70, 4.0),
        (2, 1, 170, 9.0),
        (3, 1, 180, 12.0),
        (3, 2, 190, 15.0),
    ]
    with pytest.raises(FileNotFoundError, match="expected the log of one of net, got 'network'"):
        results.log_of_all("network")


@pytest.mark.parametrize("name", LOGS)
def test_the_joined_log_ends_where_the_weights_are(name: str) -> None:
    """Where the logs of all trainings were kept; where they were not, it is the last one alone."""
    joined, card = results.log_of_all(name), zoo.card(name)
    if name in EARLIER or "went_on_from" not in card:
        assert joined[-1]["images"] == card["images_seen"]
        assert joined[-1]["stage"] == len(card.get("went_on_from", [])) + 1
    else:
        assert [entry["images"] for entry in joined] == [entry["images"] for entry in results.log(name)]
