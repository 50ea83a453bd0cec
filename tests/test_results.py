"""helpers.results: stored measurements are found, and say where they are from."""

from __future__ import annotations

import pytest
from _notebooks import ROOT

from helpers import results, zoo

LOGS = sorted(path.stem for path in (ROOT / "helpers" / "results" / "logs").glob("*.jsonl"))


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
