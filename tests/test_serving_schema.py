"""Schemathesis over the OpenAPI document, by a real connection: what the document promises is what happens."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from _serving import all_kinds

from helpers import serving

EXAMPLES = 8


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Models of every kind, and limits that keep each piece of work small."""
    models = all_kinds(tmp_path_factory.mktemp("models"), max_steps=2)
    limits = serving.Settings(port=0, max_n=2, max_steps=2, max_scale=2, max_frames=3)
    with serving.running(limits, serving.make_engine(models, limits)) as url:
        yield url


def test_schemathesis_finds_nothing(url: str, tmp_path: Path) -> None:
    """All checks: no server error, every answer as documented, wrong requests refused and right ones done."""
    command = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("schemathesis is not installed")
    options = ["--checks=all", f"--max-examples={EXAMPLES}", "--seed=1", "--no-shrink", "--continue-on-failure"]
    run = subprocess.run(
        [command, "run", f"{url}/openapi.json", "--no-color", *options],
        cwd=tmp_path,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "_schemathesis_hooks", "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-5000:]
    assert int(re.search(r"(\d+) generated", run.stdout).group(1)) > 300


def test_every_example_in_the_document_works(url: str) -> None:
    document = httpx.get(f"{url}/openapi.json").json()
    tried = 0
    for path, methods in document["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {})
        for example in content.get("application/json", {}).get("examples", {}).values():
            value = example["value"] | {"n": 1, "steps": 2} | ({"frames": 3} if "frames" in example["value"] else {})
            answer = httpx.post(f"{url}{path}", json=value, timeout=30)
            assert answer.status_code == 200, answer.text
            tried += 1
    assert tried >= 8


def test_the_document_says_what_each_model_takes(url: str) -> None:
    document = httpx.get(f"{url}/openapi.json").json()
    schemas = document["components"]["schemas"]
    digits, tiny = schemas["DigitsDdpmImages"], schemas["TinyEdmImages"]
    assert not {"class", "guidance"} & set(digits["properties"])
    assert {"class", "guidance"} <= set(tiny["properties"])
    assert digits["properties"]["sampler"]["const"] == "ddim"
    assert set(tiny["properties"]["sampler"]["enum"]) == {"ipndm", "euler", "heun", "dpmpp2m", "unipc"}
    assert digits["properties"]["steps"]["maximum"] == 2
    assert digits["additionalProperties"] is False
    assert "ValidationError" not in json.dumps(document)
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references <= set(schemas)


def test_every_number_has_its_bounds_in_the_document(url: str) -> None:
    """A bound that is checked and not told would be found by schemathesis only by luck."""
    schemas = httpx.get(f"{url}/openapi.json").json()["components"]["schemas"]
    seen = 0
    for name in ("DigitsDdpmImages", "TinyEdmImages", "TinyEnergyStream"):
        for field in schemas[name]["properties"].values():
            for kind in field.get("anyOf", [field]):
                if kind.get("type") in {"integer", "number"}:
                    assert {"minimum", "maximum"} <= set(kind), (name, field)
                    seen += 1
    assert seen >= 14
