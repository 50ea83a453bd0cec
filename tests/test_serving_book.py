"""The page on serving says what is so: its lines for curl run against a real service, and its tables are complete."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from _notebooks import ROOT
from PIL import Image

from helpers import serving, zoo
from helpers.__main__ import _parser
from helpers.serving.problems import TITLES

TEXT = (ROOT / "book" / "serving.md").read_text("utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", "").splitlines() if line.startswith("curl")]
NOT_SHIPPED = [name for name in set(re.findall(r'"model": "([\w-]+)"', TEXT)) if name not in zoo.available()]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """What ships, and nothing else."""
    with serving.running(serving.Settings(port=0)) as url:
        yield url


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_every_line_for_curl_works(url: str, tmp_path: Path) -> None:
    answers = []
    for line in LINES:
        command = [part.replace("http://127.0.0.1:8000", url) for part in shlex.split(line)]
        assert url in " ".join(command)
        run = subprocess.run([*command, "-w", "%{stderr}%{http_code}"], cwd=tmp_path, capture_output=True, text=True)
        assert run.returncode == 0, line
        wanted = "422" if '"n": 1000' in line else "200"
        assert run.stderr[-3:] == wanted, (line, run.stdout)
        answers.append(run.stdout)
    assert json.loads(answers[0])["models"]
    assert json.loads(answers[-1])["errors"][0] == {
        "field": "n",
        "message": "expected at most 36, got 1000",
        "limit": 36,
        "value": 1000,
    }
    with Image.open(tmp_path / "digits.png") as picture:
        assert picture.size == (3 * 68 + 4,) * 2
    with zipfile.ZipFile(tmp_path / "digits.zip") as archive:
        first = Image.open(io.BytesIO(archive.read("000.png")))
        assert first.size == (16, 16)
    assert len(json.loads((tmp_path / "digits.json").read_text())["images"]) == 9
    assert {"ships.png", "pets.png"} <= {path.name for path in tmp_path.iterdir()}
    [energy] = [json.loads(answer) for line, answer in zip(LINES, answers, strict=True) if "/v1/energy" in line]
    [told] = map(json.loads, re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL))
    assert energy["model"] == told["model"]
    assert energy["energy"] == pytest.approx(told["energy"], abs=0.1)  # another machine rounds otherwise
    assert energy["percentile"] == pytest.approx(told["percentile"], abs=2)
    mosaic = httpx.post(
        f"{url}/v1/energy?model=digits-energy",
        content=(tmp_path / "digits.png").read_bytes(),
        headers={"Content-Type": "image/png"},
    )
    assert mosaic.json()["percentile"] == 100
    names = re.findall(r"^event: (\w+)$", (tmp_path / "events.txt").read_text(), re.MULTILINE)
    assert names[0] == "queued"
    assert names[-1] == "done"


def test_an_energy_in_python_is_served_as_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    asked = []

    def ask(prompt: str) -> None:
        file = io.BytesIO()
        Image.new("L", (16, 16), 0).save(file, "PNG")
        address = f"{prompt.split()[0]}/v1/energy?model=dark"
        asked.append(httpx.post(address, content=file.getvalue(), headers={"Content-Type": "image/png"}).json())

    monkeypatch.setattr("builtins.input", ask)
    assert "port=8000" in code
    exec(code.replace("port=8000", "port=0"), {})
    assert asked == [{"model": "dark", "energy": -256.0, "percentile": None}]


def test_models_on_the_page_ship() -> None:
    assert NOT_SHIPPED == []


def test_settings_are_listed_as_they_are() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `?([^|`]+?)`? \| (.+) \|$", TEXT.split("## Settings")[1], re.MULTILINE)
    fields = serving.Settings.model_fields
    assert [name for name, _, _ in rows] == list(fields)
    for name, default, description in rows:
        assert description == fields[name].description
        assert default == ("none" if fields[name].default in (None, ()) else str(fields[name].default))


def test_statuses_are_all_told() -> None:
    told = {int(status) for row in re.findall(r"^\| ([\d, ]+) \|", TEXT, re.MULTILINE) for status in row.split(",")}
    assert told == set(TITLES) - {405, 500}


def test_commands_on_the_page_can_be_parsed() -> None:
    for block in BLOCKS:
        for line in block.splitlines():
            if line.startswith("python -m helpers"):
                _parser().parse_args(line.split()[3:])
