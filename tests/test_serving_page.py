"""The page of the service in a real browser: a picture appears, changes with the seed, and all works by keyboard."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from _browser import launched
from _serving import Slow, all_kinds, energy_model
from PIL import Image

from helpers import serving

PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from launched()


@pytest.fixture(scope="module")
def url(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = all_kinds(tmp_path_factory.mktemp("models"))
    with serving.running(serving.Settings(port=0), serving.make_engine(models)) as url:
        yield url


@pytest.fixture
def page(browser: Any, url: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page, ready; afterwards nothing must have been asked of another site, and nothing complained of."""
    context = browser.new_context(**{"viewport": DESKTOP} | getattr(request, "param", {}))
    page = context.new_page()
    outside: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda asked: None if asked.url.startswith((url, "data:")) else outside.append(asked.url))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    page.wait_for_selector("body[data-state=ready]")
    yield page
    context.close()
    assert outside == []
    assert complaints == []


on_a_phone = pytest.mark.parametrize("page", [{"viewport": PHONE, "has_touch": True}], indirect=True, ids=["phone"])


def drawn(page: Any, *, by_keyboard: bool = False) -> np.ndarray:
    """Press Draw, wait, and look."""
    if by_keyboard:
        page.focus("#seed")
        page.keyboard.press("Enter")
    else:
        page.click("#draw")
    page.wait_for_selector("body[data-state=done]", timeout=60_000)
    return shown(page)


def shown(page: Any) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(page.get_attribute("#picture", "src").split(",")[1]))) as picture:
        return np.asarray(picture)


def test_a_picture_appears_and_changes_with_the_seed(page: Any) -> None:
    page.select_option("#model", "digits-ddpm")
    page.fill("#n", "4")
    page.fill("#steps", "6")
    first = drawn(page)
    assert page.is_visible("#picture")
    assert page.eval_on_selector("#picture", "image => image.naturalWidth") == first.shape[1] == 8 * (2 * 17 + 1)
    assert page.get_attribute("#picture", "alt") == "4 pictures by digits-ddpm, seed 1"
    assert page.inner_text("#status").startswith("Done in")
    assert np.array_equal(drawn(page), first)
    page.fill("#seed", "2")
    assert not np.array_equal(drawn(page), first)
    before = page.input_value("#seed")
    page.click("#dice")
    page.wait_for_function("before => document.getElementById('seed').value !== before", arg=before)
    page.wait_for_selector("body[data-state=done]")


def test_the_way_can_be_looked_at_again(page: Any) -> None:
    page.select_option("#model", "digits-ddpm")
    page.fill("#n", "1")
    page.fill("#steps", "12")
    last = drawn(page)
    states = int(page.get_attribute("#moment", "max"))
    assert states >= 6
    page.focus("#moment")
    page.keyboard.press("Home")
    first = shown(page)
    assert page.inner_text("output[for=moment]") == f"1 of {states + 1}"
    assert np.abs(first.astype(int) - last).mean() > 20
    assert page.get_attribute("#picture", "alt") == f"1 picture by digits-ddpm, seed 1, on the way: 1 of {states + 1}"
    page.keyboard.press("End")
    assert page.get_attribute("#picture", "alt") == "1 picture by digits-ddpm, seed 1"
    assert np.array_equal(shown(page), last)
    with page.expect_download() as download:
        page.click("#save")
    with Image.open(download.value.path()) as saved:
        assert np.array_equal(np.asarray(saved), last)
        request = json.loads(saved.text["request"])
    assert min(last.shape[:2]) >= 128  # large enough to be looked at
    again = httpx.post(f"{page.url}v1/images", json=request, timeout=30)
    assert again.content == download.value.path().read_bytes()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_line_makes_the_same_picture(page: Any, tmp_path: Path) -> None:
    page.select_option("#model", "tiny-edm")
    page.select_option("#class", "cat")
    page.select_option("#other", "emu")
    page.fill("#share", "75")
    page.select_option("#sampler", "heun")
    page.fill("#guidance", "2.5")
    page.fill("#n", "3")
    page.fill("#steps", "3")
    picture = drawn(page)
    assert "Classes: " in page.inner_text("#status")
    line = page.inner_text("#curl")
    assert '"class":{"cat":75,"emu":25}' in line
    subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True, capture_output=True)
    with Image.open(tmp_path / "pictures.png") as made:
        assert np.array_equal(np.asarray(made), picture)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#copy")
    page.wait_for_selector("#copy:has-text('Copied')")
    assert page.evaluate("navigator.clipboard.readText()") == line


def test_the_curl_line_waits_for_a_seed(page: Any) -> None:
    for seed in ("", "1.5", "-1"):
        page.fill("#seed", seed)
        assert "curl" not in page.inner_text("#curl")
        assert page.is_disabled("#copy")
    page.fill("#seed", "3")
    assert '"seed":3' in page.inner_text("#curl")
    assert page.is_enabled("#copy")


def test_it_begins_with_what_is_quick_and_can_be_judged(page: Any) -> None:
    assert page.input_value("#model") == "digits-ddpm"
    page.select_option("#model", "tiny-edm")
    assert page.input_value("#guidance") == "3"


def test_draw_is_in_view_whatever_the_form_holds(page: Any) -> None:
    page.select_option("#model", "tiny-edm")
    page.select_option("#class", "cat")
    page.select_option("#other", "emu")
    for where in ("#model", "#seed"):
        page.locator(where).scroll_into_view_if_needed()
        box = page.locator("#draw").bounding_box()
        assert 0 <= box["y"] <= DESKTOP["height"] - box["height"]
    page.focus("#guidance")
    assert page.locator("#guidance").bounding_box()["y"] + 28 < page.locator(".actions").bounding_box()["y"]


def test_the_picture_is_in_view_wherever_one_draws(page: Any) -> None:
    page.select_option("#model", "tiny-edm")
    page.select_option("#class", "cat")
    page.select_option("#other", "emu")
    page.fill("#steps", "2")
    page.evaluate("scrollTo(0, 10_000)")
    drawn(page)
    assert 0 <= page.locator("#picture").bounding_box()["y"] < 150
    assert page.locator("#draw").bounding_box()["y"] < DESKTOP["height"] - 40


def test_only_what_a_model_knows_is_asked(page: Any) -> None:
    page.select_option("#model", "digits-ddpm")
    assert not page.is_visible("#class")
    assert not page.is_visible("#guidance")
    assert not page.is_visible("#sampler")
    page.select_option("#model", "tiny-edm")
    assert page.is_visible("#class")
    assert page.is_visible("#guidance")
    assert page.locator("#sampler option").count() == 5
    assert not page.is_visible("#share")


def test_all_works_by_keyboard(page: Any) -> None:
    """Tab reaches every control in the order of the page, with a visible focus, and Enter draws."""
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.id || document.activeElement.className")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", name
        reached.append(name)
    wanted = ["skip", "model", "n", "steps", "seed", "dice", "draw", "copy"]
    assert [name for name in reached if name in wanted] == wanted
    drawn(page, by_keyboard=True)


@on_a_phone
def test_it_fits_a_phone(page: Any) -> None:
    page.select_option("#model", "tiny-edm")
    page.select_option("#class", "cat")
    page.select_option("#other", "dog")
    page.fill("#steps", "2")
    drawn(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    box = page.locator("#picture").bounding_box()
    assert box["width"] > 250
    assert 0 <= box["y"] < PHONE["height"]  # the picture has come into view
    small = "all => all.filter(one => one.offsetHeight && one.offsetHeight < 40).map(one => one.id)"
    assert page.locator("button, select, input[type=number]").evaluate_all(small) == []


@pytest.mark.parametrize("page", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True, ids=str)
def test_text_is_readable_in_light_and_dark(page: Any) -> None:
    """Contrast of at least 4.5 (WCAG 2.2, 1.4.3) of text, hints and buttons against what is behind them."""
    contrast = """all => all.filter(one => one.offsetWidth && one.textContent.trim()).map(one => {
        const numbers = text => text.match(/[\\d.]+/g).map(Number);
        const light = text => {
          const parts = numbers(text).slice(0, 3).map(c => c / 255)
            .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
          return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
        };
        const color = (box, of) => getComputedStyle(box)[of];
        let ground = one;
        while (ground !== document.body && (numbers(color(ground, "backgroundColor"))[3] ?? 1) === 0)
          ground = ground.parentElement;
        const a = light(color(one, "color")), b = light(color(ground, "backgroundColor"));
        return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), one.textContent.trim().slice(0, 30)];
    }).filter(([ratio]) => ratio < 4.5)"""
    assert page.locator("h1, h2, h3, p, label, button:enabled, a, code, figcaption").evaluate_all(contrast) == []


def test_every_control_has_a_name(page: Any) -> None:
    unnamed = (
        "all => all.filter(one => !one.labels?.length && !one.ariaLabel && !one.textContent.trim()).map(o => o.id)"
    )
    assert page.locator("input, select, button, textarea, progress").evaluate_all(unnamed) == []
    assert page.locator("h1").count() == 1
    assert page.get_attribute("html", "lang") == "en"


def test_the_energy_of_a_file(page: Any, tmp_path: Path) -> None:
    Image.new("L", (8, 8), 51).save(tmp_path / "grey.png")
    page.set_input_files("#file", tmp_path / "grey.png")
    page.click("#energy button")
    page.wait_for_selector("#energy-answer:has-text('Energy 38.72, higher than that of 97 % of the test set.')")


def test_a_drawing_can_be_stopped_and_problems_are_told(browser: Any) -> None:
    models = {"tiny-energy": energy_model(Slow(0.05))}
    engine = serving.make_engine(models)
    with serving.running(serving.Settings(port=0), engine) as url:
        page = browser.new_page()
        page.goto(url)
        page.wait_for_selector("body[data-state=ready]")
        page.fill("#steps", "100")
        page.click("#draw")
        page.wait_for_selector("#picture:visible")
        page.focus("#stop")
        page.keyboard.press("Enter")
        page.wait_for_selector("body[data-state=stopped]")
        assert page.evaluate("document.activeElement.id") == "draw"
        assert page.inner_text("#status") == "Stopped."
        page.wait_for_function("fetch('/healthz').then(r => r.json()).then(h => h.running === 0)")
        engine.drain()
        page.click("#draw")
        page.wait_for_selector("#problem:has-text('about to stop')")
        page.close()


def test_a_service_that_is_gone_is_told(browser: Any, tmp_path: Path) -> None:
    Image.new("L", (8, 8), 51).save(tmp_path / "grey.png")
    page = browser.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    with serving.running(serving.Settings(port=0), serving.make_engine({"tiny-energy": energy_model()})) as url:
        page.goto(url)
        page.wait_for_selector("body[data-state=ready]")
    page.click("#draw")
    page.wait_for_selector("#problem:has-text('The service cannot be reached.')")
    assert page.inner_text("#status") == "Nothing drawn."
    page.set_input_files("#file", tmp_path / "grey.png")
    page.click("#energy button")
    page.wait_for_selector("#energy-answer:has-text('The service cannot be reached.')")
    assert failures == []
    page.close()


def test_the_docs_can_try_it_out_and_show_the_picture(browser: Any, url: str) -> None:
    page = browser.new_page(viewport=DESKTOP)
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.goto(f"{url}/docs")
    if page.url.endswith(".json"):
        pytest.skip("the pages of Swagger UI are not installed: fastapi-offline")
    page.locator(".opblock-summary-path", has_text="images").first.click()
    page.click("button.try-out__btn")
    page.fill("textarea.body-param__text", '{"model": "digits-ddpm", "n": 4, "steps": 2, "seed": 1}')
    page.click("button.execute")
    page.wait_for_selector(".response-col_description img[src^=blob]", timeout=60_000)
    width = "image => image.decode().then(() => image.naturalWidth)"
    assert page.eval_on_selector(".response-col_description img[src^=blob]", width) == 2 * 17 + 1
    assert complaints == []
    page.close()
