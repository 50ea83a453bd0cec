"""Every live figure: it opens from disk, is accessible, fits a phone, follows the theme; and three of them in detail.

The mathematics in JavaScript is compared with ``helpers``, whose numbers are computed here, when the test runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from _browser import launched
from _figures import PHONE, Live, open_figure, sources
from axe_playwright_python.sync_playwright import Axe
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from helpers import schedules
from helpers.data import digits
from helpers.nn import AttentionBlock, SimpleUNet, sinusoidal_embedding

FIGURES = sorted(sources())
SCHEDULES = {
    "linear": schedules.LinearSchedule(1000).alpha_bar(torch.arange(1000)),
    "cosine": schedules.CosineSchedule(1000).alpha_bar(torch.arange(1000)),
    "karras": schedules.alpha_bar_from_sigma(schedules.karras_sigmas(1000).flip(0)),
}

each_figure = pytest.mark.parametrize("name", FIGURES)
each_look = pytest.mark.parametrize(
    "look",
    [{}, {"color_scheme": "dark"}, {"viewport": PHONE, "has_touch": True}],
    ids=["light", "dark", "phone"],
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from launched()


@pytest.fixture
def live(browser: Any, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Live]:
    """The figure named by the parameter, or by a pair of name and options of the browser's window."""
    name, options = request.param if isinstance(request.param, tuple) else (request.param, {})
    live = open_figure(browser, name, tmp_path, **options)
    yield live
    live.page.context.close()
    assert live.outside == []
    assert live.complaints == []


def figure(name: str, **options: object) -> pytest.MarkDecorator:
    """Run a test on this figure."""
    return pytest.mark.parametrize("live", [(name, options)], indirect=True, ids=[name])


def doubles(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- every figure


@each_figure
def test_the_static_picture_is_there_and_described(name: str) -> None:
    source = sources()[name]
    assert source.picture.is_file()
    assert source.picture.stat().st_size < 300_000
    assert len(source.alt) > 40


@pytest.mark.browser
@each_figure
@each_look
def test_figure_is_accessible_and_fits(browser: Any, name: str, look: dict, tmp_path: Path) -> None:
    """No serious finding of axe-core, in light, dark and on a phone; nothing wider than the window; picture hidden."""
    live = open_figure(browser, name, tmp_path, **look)
    options = {"resultTypes": ["violations"], "preload": False}  # preloading asks for files, which a page may not
    found = Axe().run(live.page, options=options).response["violations"]
    serious = [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in {"serious", "critical"}]
    width = live.evaluate("document.documentElement.scrollWidth")
    wide = live.stage.evaluate(
        """stage => [...stage.querySelectorAll("*")].filter(
             element => element.getBoundingClientRect().right > stage.getBoundingClientRect().right + 1
             && !element.closest(".figure-scroll")).map(element => element.outerHTML.slice(0, 80))"""
    )
    fallback = live.page.locator(".figure-fallback").is_visible()
    live.page.context.close()
    assert (serious, live.outside, live.complaints) == ([], [], [])
    assert width <= live.page.viewport_size["width"]
    assert (wide, fallback) == ([], False)


@pytest.mark.browser
@each_figure
def test_every_control_has_a_name_and_can_be_reached_by_keyboard(browser: Any, name: str, tmp_path: Path) -> None:
    live = open_figure(browser, name, tmp_path)
    controls = live.stage.locator(":is(input, select, button):enabled")
    groups = controls.evaluate_all("controls => controls.map(c => c.type === 'radio' ? c.name : c.id || c.textContent)")
    reached = set()
    live.page.evaluate("document.activeElement.blur()")
    for _ in range(2 * len(groups)):
        live.page.keyboard.press("Tab")
        reached.add(
            live.evaluate(
                "(c => c.type === 'radio' ? c.name : c.id || c.textContent)(document.activeElement ?? document.body)"
            )
        )
    live.page.context.close()
    assert groups
    assert set(groups) <= reached


@pytest.mark.browser
@each_figure
def test_without_javascript_the_picture_remains(browser: Any, name: str, tmp_path: Path) -> None:
    live = open_figure(browser, name, tmp_path)
    live.page.context.close()
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((tmp_path / f"{name}.html").as_uri())
    shown = page.locator(".figure-fallback").is_visible(), page.locator(".figure-caption").is_visible()
    context.close()
    assert shown == (True, True)


@pytest.mark.browser
@figure("schedules")
def test_canvases_are_sharp_and_follow_the_theme(live: Live) -> None:
    """Drawn at the screen's resolution; drawn anew, in other colours, when the reader switches the theme."""
    drawn = "canvas => canvas.toDataURL()"
    plots = live.stage.locator("canvas").nth(1)
    light = plots.evaluate(drawn)
    assert plots.evaluate("canvas => canvas.width / canvas.clientWidth / devicePixelRatio") == pytest.approx(
        1, abs=0.01
    )
    live.evaluate("document.documentElement.dataset.theme = 'dark'")
    live.settle()
    live.settle()
    assert plots.evaluate(drawn) != light
    ground = live.stage.evaluate("stage => getComputedStyle(stage).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", ground)[:3])) < 120


@pytest.mark.browser
@figure("schedules")
def test_a_figure_can_be_taken_away_and_put_back(live: Live) -> None:
    live.evaluate("Course.figures.unmount(document.querySelector('.course-figure'))")
    assert live.stage.count() == 0
    assert live.page.locator(".figure-fallback").is_visible()
    live.evaluate("Course.figures.mountAll()")
    assert live.stage.count() == 1


@pytest.mark.browser
@figure("schedules")
def test_a_broken_figure_leaves_its_picture(live: Live) -> None:
    live.evaluate("""() => {
        Course.figures.register("broken", { title: "broken", mount() { throw new Error("on purpose"); } });
        const place = document.createElement("div");
        place.innerHTML = '<div class="course-figure" data-figure="broken"><img alt="still here"></div>';
        document.body.append(place);
        Course.figures.mountAll();
    }""")
    assert live.page.locator("[data-figure=broken] img").is_visible()
    assert live.page.locator("[data-figure=broken] .figure-stage").count() == 0
    [complaint] = live.complaints
    assert "on purpose" in complaint
    live.complaints.clear()


@pytest.mark.browser
@figure("schedules")
def test_random_numbers_are_seeded_and_normal(live: Live) -> None:
    draw = "seed => { const r = Course.figures.rng(seed); return Array.from({ length: 20000 }, () => r.normal()); }"
    first, again, other = (doubles(live.evaluate(draw, seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    error = 4 / len(first) ** 0.5
    assert abs(first.mean()) < error
    assert abs(first.square().mean() - 1) < 2**0.5 * error
    assert abs(first.pow(4).mean() - 3) < 96**0.5 * error
    assert abs((first[:-1] * first[1:]).mean()) < error


@pytest.mark.browser
@figure("schedules")
def test_ticks_are_round_numbers_inside_the_limits(live: Live) -> None:
    assert live.evaluate("Course.figures.ticksBetween(0, 1, 5)") == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert live.evaluate("Course.figures.ticksBetween(-3.2, 3.2, 4)") == [-2, 0, 2]
    assert live.evaluate("Course.figures.powersBetween(1e-5, 1e6, 5)") == [1e-3, 1, 1e3, 1e6]
    assert live.evaluate("[-0.5, 20].map(v => Course.figures.formatTick(v))") == ["−0.5", "20"]
    assert live.evaluate("Course.figures.formatTick(1e-4, true)") == "10⁻⁴"


@pytest.mark.browser
@pytest.mark.parametrize("live", [("schedules", {"reduced_motion": "reduce"})], indirect=True, ids=["reduced"])
def test_animations_do_single_steps_where_motion_is_reduced(live: Live) -> None:
    counted = live.evaluate("""async () => {
        let [steps, running] = [0, true];
        Course.figures.register("moving", { title: "moving", mount(root, ui) {
            const animation = ui.animate(() => { steps += 1; });
            animation.start();
            animation.start();
            running = animation.running;
        } });
        document.body.insertAdjacentHTML("beforeend", '<div class="course-figure" data-figure="moving"></div>');
        Course.figures.mountAll();
        await new Promise(done => setTimeout(done, 200));
        return [steps, running];
    }""")
    assert counted == [2, False]


# --- the noise-schedule explorer


@pytest.mark.browser
@figure("schedules")
@pytest.mark.parametrize("name", SCHEDULES)
def test_alpha_bar_is_the_librarys(live: Live, name: str) -> None:
    values = doubles(live.evaluate("name => [...Course.maths.schedules.alphaBar(name)]", name))
    assert_close(values, SCHEDULES[name], rtol=1e-9, atol=1e-12)


@pytest.mark.browser
@figure("schedules")
def test_clocks_and_grids_are_the_librarys(live: Live) -> None:
    made = live.evaluate("""() => {
        const { alphaBar, alphaBarFromBetas, linearBetas, cosineBetas, karrasSigmas } = Course.maths.schedules;
        const { snr, sigmaFromAlphaBar, alphaBarFromSigma } = Course.maths.schedules;
        return { snr: [...alphaBar("cosine").map(snr)], sigma: [...alphaBar("cosine").map(sigmaFromAlphaBar)],
            back: [...karrasSigmas(18).map(alphaBarFromSigma)], grid: [...karrasSigmas(7, 0.01, 50, 5)],
            linear: [...linearBetas(250, 4e-4, 0.08)], cosine: [...alphaBarFromBetas(cosineBetas(50))] };
    }""")
    cosine, t = schedules.CosineSchedule(1000), torch.arange(1000)
    wanted = {
        "snr": cosine.snr(t),
        "sigma": cosine.sigma(t),
        "back": schedules.alpha_bar_from_sigma(schedules.karras_sigmas(18)),
        "grid": schedules.karras_sigmas(7, 0.01, 50.0, 5.0),
        "linear": schedules.LinearSchedule(250, 4e-4, 0.08).betas,
        "cosine": schedules.CosineSchedule(50).alpha_bar(torch.arange(50)),
    }
    for key, values in wanted.items():
        assert_close(doubles(made[key]), values, rtol=1e-9, atol=1e-14, msg=key)


@pytest.mark.browser
@figure("schedules")
def test_the_digits_are_the_librarys(live: Live) -> None:
    split = digits(16)
    for label, values in live.evaluate("Course.data.digits").items():
        image = split.test[split.test_labels == int(label)][0]
        assert_close((doubles(values) / 128 - 1).reshape(1, 16, 16), image.double(), rtol=0, atol=1e-6)


@pytest.mark.browser
@figure("schedules")
def test_noised_pictures_are_the_librarys(live: Live) -> None:
    """√ᾱ x_0 + √(1 − ᾱ) ε, from the figure's own digit and noise."""
    from helpers.diffusion import q_sample

    made = live.evaluate("""() => {
        const random = Course.figures.rng(5);
        const x0 = Course.data.digits[7].map(v => v / 128 - 1);
        const eps = x0.map(() => random.normal());
        const { alphaBar, noised } = Course.maths.schedules;
        return { x0, eps, xt: [...noised(x0, eps, alphaBar("linear")[300])] };
    }""")
    x_0, eps, x_t = (doubles(made[key])[None] for key in ("x0", "eps", "xt"))
    assert_close(x_t, q_sample(x_0, torch.tensor([300]), eps, schedules.LinearSchedule(1000)), rtol=0, atol=1e-12)


@pytest.mark.browser
@figure("schedules")
def test_driving_the_schedule_explorer(live: Live) -> None:
    """By keyboard and by mouse; what it says is what the library says."""
    slider = "time step t, from data to noise"

    def agrees(name: str, t: int) -> None:
        share = SCHEDULES[name][t]
        assert (live.data("schedule"), live.number("t")) == (name, t)
        assert live.number("alphaBar") == pytest.approx(float(share), rel=1e-9, abs=1e-12)
        assert live.number("snr") == pytest.approx(float(share / (1 - share)), rel=1e-6)
        assert live.number("sigma") == pytest.approx(float(schedules.sigma_from_alpha_bar(share)), rel=1e-6)
        end = SCHEDULES[name][999]
        assert live.number("hides") == pytest.approx(float((1 - end) / end), rel=1e-5)
        colors = live.stage.evaluate(
            """(stage, label) => {
              const slider = [...stage.querySelectorAll("label")].find(element => element.textContent === label);
              const mark = stage.querySelector("input:checked + label .figure-mark");
              return [getComputedStyle(slider).getPropertyValue("--figure-blue").trim(),
                      getComputedStyle(mark).backgroundColor].map(color => {
                mark.style.color = color;
                return getComputedStyle(mark).color;
              });
            }""",
            slider,
        )
        assert colors[0] == colors[1]  # the slider has the schedule's colour

    agrees("cosine", 300)
    live.press(slider, "Home", "ArrowRight", "ArrowRight", "PageUp")
    agrees("cosine", 102)
    live.press("cosine", "ArrowLeft")
    agrees("linear", 102)
    assert float(live.readout("ᾱ_t")) == pytest.approx(float(SCHEDULES["linear"][102]), rel=5e-3)
    live.press(slider, "End")
    agrees("linear", 999)
    assert "10⁻⁵" in live.readout("ᾱ_t")
    live.control("EDM (Karras)").check(force=True)
    live.put(slider, 640)
    agrees("karras", 640)
    box = live.stage.locator("canvas").nth(1).bounding_box()
    live.page.mouse.move(box["x"] + 200, box["y"] + 60)
    live.page.mouse.down()
    live.page.mouse.move(box["x"] + box["width"] - 12, box["y"] + 60)
    live.page.mouse.up()
    agrees("karras", 999)
    assert live.control(slider).input_value() == "999"


@pytest.mark.browser
@figure("schedules")
def test_the_digit_and_the_noise_can_be_changed(live: Live) -> None:
    drawn = "canvas => canvas.toDataURL()"
    picture = live.stage.locator("canvas").first
    looks = {picture.evaluate(drawn)}
    live.put("digit", 8)
    live.settle()
    looks.add(picture.evaluate(drawn))
    live.stage.get_by_role("button", name="Other noise").press("Enter")
    live.settle()
    looks.add(picture.evaluate(drawn))
    assert len(looks) == 3
    assert (live.data("digit"), live.data("seed")) == ("8", "2")


# --- the time-embedding explorer


@pytest.mark.browser
@figure("embedding")
@pytest.mark.parametrize("layout", ["halves", "interleaved"])
@pytest.mark.parametrize(("d", "period"), [(2, 10_000.0), (8, 10_000.0), (128, 10_000.0), (64, 37.0)])
def test_embeddings_are_the_librarys(live: Live, d: int, period: float, layout: str) -> None:
    times = [0, 1, 7, 500, 999]
    made = live.evaluate(
        "([times, d, P, layout]) => times.map(t => [...Course.maths.embedding.sinusoidalEmbedding(t, d, P, layout)])",
        [times, d, period, layout],
    )
    assert_close(doubles(made), sinusoidal_embedding(doubles(times), d, period, layout), rtol=0, atol=1e-12)


@pytest.mark.browser
@figure("embedding")
def test_places_of_a_pair_are_where_its_sine_and_cosine_are(live: Live) -> None:
    for layout in ("halves", "interleaved"):
        for k in range(4):
            places = live.evaluate("([k, layout]) => Course.maths.embedding.placesOf(k, 8, layout)", [k, layout])
            angle = 3 * 10_000 ** (-2 * k / 8)
            embedding = sinusoidal_embedding(doubles([3.0]), 8, layout=layout)[0]
            pair = doubles([float(embedding[places["sine"]]), float(embedding[places["cosine"]])])
            assert_close(pair, torch.stack([doubles([angle]).sin(), doubles([angle]).cos()])[:, 0])


@pytest.mark.browser
@figure("embedding")
def test_driving_the_embedding_explorer(live: Live) -> None:
    """Every control by keyboard; vector, similarity and distance are the library's."""

    def agrees(t: int, s: int, d: int, period: float, layout: str) -> None:
        assert (live.number("t"), live.number("other"), live.number("d"), live.data("layout")) == (t, s, d, layout)
        here, there = sinusoidal_embedding(doubles([t, s]), d, period, layout)
        assert_close(doubles(json.loads(live.data("vector"))), here, rtol=0, atol=1e-9)
        alike = torch.nn.functional.cosine_similarity(here, there, dim=0)
        assert live.number("similarity") == pytest.approx(float(alike), abs=1e-9)
        assert live.number("distance") == pytest.approx(float((here - there).norm()), abs=1e-9)
        assert live.readout("similarity of t and s") == f"{float(alike):.3f}".replace("-", "−")
        slowest = 2 * torch.pi * period ** ((d / 2 - 1) / (d / 2))
        assert live.number("slowest") == pytest.approx(slowest, rel=1e-9)
        turns = doubles([999 * period ** (-2 * k / d) / (2 * torch.pi) for k in range(d // 2)])
        assert live.number("idle") == int((turns < 0.1).sum())

    agrees(120, 180, 32, 10_000.0, "halves")
    live.press("time t", "Home", "PageUp", "ArrowRight")
    agrees(101, 180, 32, 10_000.0, "halves")
    live.press("second time s", "End")
    agrees(101, 999, 32, 10_000.0, "halves")
    live.press("dimensions d", "ArrowLeft")
    agrees(101, 999, 30, 10_000.0, "halves")
    live.press("halves", "ArrowRight")
    agrees(101, 999, 30, 10_000.0, "interleaved")
    live.press("max_period P", "Home", *["ArrowRight"] * 4)
    agrees(101, 999, 30, 100.0, "interleaved")
    box = live.stage.locator("canvas").first.bounding_box()
    live.page.mouse.click(box["x"] + 42, box["y"] + 100)
    assert live.number("t") < 10


# --- the U-Net shape tracer


def layers_run(model: SimpleUNet, x: torch.Tensor) -> tuple[dict[str, tuple[str, list[int], int]], bool]:
    """What really runs, in order: name → class, shape of the output without the batch, number of parameters.

    And whether it got stuck because two maps could not be laid beside each other.
    """
    seen: dict[str, tuple[str, list[int], int]] = {}

    def remember(name: str) -> object:
        def hook(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
            parameters = sum(p.numel() for p in module.parameters())
            seen[name] = (type(module).__name__, list(output.shape[1:]), parameters)

        return hook

    handles = [module.register_forward_hook(remember(name)) for name, module in model.named_modules() if name]
    stuck = False
    try:
        model(x, torch.zeros(len(x), dtype=torch.long))
    except RuntimeError as error:
        if "Sizes of tensors must match" not in str(error):
            raise
        stuck = True
    for handle in handles:
        handle.remove()
    return seen, stuck


def traced(live: Live, **options: int) -> dict:
    return live.evaluate("options => Course.maths.unet.trace(options)", options)


@pytest.mark.browser
@figure("unet")
@pytest.mark.parametrize(
    ("channels", "emb", "base", "height", "width"),
    [(3, 128, 64, 32, 32), (1, 32, 8, 16, 16), (3, 64, 24, 12, 28), (1, 128, 16, 4, 8)],
)
def test_traced_shapes_and_parameters_are_the_librarys(
    live: Live, channels: int, emb: int, base: int, height: int, width: int
) -> None:
    """Every module of SimpleUNet, in the order in which it runs; forward hooks on the real network are the truth."""
    model = SimpleUNet(channels, channels, emb, base).eval()
    x = torch.zeros(1, channels, height, width)
    with FlopCounterMode(display=False) as counter:
        real, _ = layers_run(model, x)
    made = traced(live, inChannels=channels, timeEmbDim=emb, baseChannels=base, height=height, width=width)
    found: dict[str, tuple[str, list[int], int]] = {}
    for stage in made["stages"]:
        for layer in stage.get("layers", []):
            if layer["kind"] != "weights":
                found[f"{stage['name']}.{layer['name']}"] = (layer["kind"], layer["shape"], layer["parameters"])
        if stage["kind"] != "cat":
            found[stage["name"]] = (stage["kind"], stage["shape"], stage["parameters"])
    assert found == real
    assert [name for name in found if "." not in name] == [name for name in real if "." not in name]
    assert made["parameters"] == sum(p.numel() for p in model.parameters())
    assert 2 * made["multiplications"] == counter.get_total_flops()


@pytest.mark.browser
@figure("unet")
def test_the_table_of_attention_weights_has_the_librarys_shape(live: Live) -> None:
    weights = AttentionBlock(64).attention_map(torch.zeros(1, 64, 6, 4))
    made = traced(live, baseChannels=16, height=24, width=16)
    [attention] = [stage for stage in made["stages"] if stage["name"] == "mid_attn"]
    [table] = [layer for layer in attention["layers"] if layer["kind"] == "weights"]
    assert table["shape"] == list(weights.shape[1:])


@pytest.mark.browser
@figure("unet")
def test_sizes_fail_where_and_as_the_library_fails(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's message for every size that it refuses; without its check, the same concatenation breaks."""
    model = SimpleUNet(1, 1, 2, 8).eval()
    t = torch.zeros(1, dtype=torch.long)
    for height, width in [(size, size) for size in range(4, 21)] + [(8, 10), (9, 8), (12, 6), (8, 11)]:
        x = torch.zeros(1, 1, height, width)
        made = traced(live, inChannels=1, timeEmbDim=2, baseChannels=8, height=height, width=width)
        try:
            model(x, t)
            message = ""
        except ValueError as error:
            message = str(error)
        assert made["error"] == message
        assert made["complete"] == (not message)
        with monkeypatch.context() as patch:
            patch.setattr(model, "_check", lambda x, t: None)
            real, stuck = layers_run(model, x)
        assert stuck == bool(message)
        shapes = {stage["name"]: stage["shape"] for stage in made["stages"] if stage["kind"] != "cat"}
        assert shapes == {name: shape for name, (_, shape, _) in real.items() if "." not in name}, (height, width)


@pytest.mark.browser
@figure("unet")
def test_sizes_after_single_layers_are_those_of_torch(live: Live) -> None:
    for kernel, stride, padding in [(3, 2, 1), (3, 1, 1), (4, 2, 1), (5, 3, 2), (1, 1, 0)]:
        for size in range(5, 40):
            x, weight = torch.zeros(1, 1, size), torch.zeros(1, 1, kernel)
            down = torch.nn.functional.conv1d(x, weight, stride=stride, padding=padding).shape[-1]
            up = torch.nn.functional.conv_transpose1d(x, weight, stride=stride, padding=padding).shape[-1]
            arguments = [size, kernel, stride, padding]
            assert live.evaluate("a => Course.maths.unet.convSize(...a)", arguments) == down
            assert live.evaluate("a => Course.maths.unet.transposedSize(...a)", arguments) == up


@pytest.mark.browser
@figure("unet")
def test_driving_the_shape_tracer(live: Live) -> None:
    """Walk through the forward pass by keyboard; change the network; run into a size that does not fit."""
    model = SimpleUNet().eval()
    real, _ = layers_run(model, torch.zeros(1, 3, 32, 32))
    walk = "step of the forward pass"
    live.press(walk, "Home")
    steps = []
    for _ in range(17):
        name, shape = live.data("stage"), live.data("shape")
        steps.append(name)
        if name in real:
            assert shape == "×".join(map(str, real[name][1]))
        live.press(walk, "ArrowRight")
    assert [name for name in steps if name in real] == [name for name in real if "." not in name]
    assert live.readout("parameters") == f"{sum(p.numel() for p in model.parameters()):,}"

    live.put("height H", 64)
    sizes = [torch.zeros(1, 1, 64, 64)]
    halve = torch.nn.Conv2d(1, 1, 3, stride=2, padding=1)
    for _ in range(3):
        sizes.append(halve(sizes[-1]))
    for label, n in (("H in this net: two halvings", 2), ("H in the net of Q4: three halvings", 3)):
        assert re.findall(r"\d+", live.readout(label)) == [str(x.shape[2]) for x in sizes[: n + 1]]
    assert live.control("width W").input_value() == "64"
    live.press("height H", "ArrowLeft")
    with pytest.raises(ValueError, match="divisible by 4") as refused:
        model(torch.zeros(1, 3, 63, 63), torch.zeros(1, dtype=torch.long))
    assert str(refused.value) in live.data("trouble")
    assert live.stage.locator("p[role=status]").is_visible()
    assert live.data("complete") == "false"
    live.press("height H", "ArrowRight")
    assert not live.stage.locator("p[role=status]").is_visible()

    live.control("square").press("Space")
    live.put("width W", 40)
    live.control("grey").check(force=True)
    live.put("base channels c", 16)
    live.put("time_emb_dim", 32)
    small = SimpleUNet(1, 1, 32, 16)
    assert live.number("parameters") == sum(p.numel() for p in small.parameters())
    live.put(walk, 3)
    real, _ = layers_run(small.eval(), torch.zeros(1, 1, 64, 40))
    assert live.data("shape") == "×".join(map(str, real["down1"][1]))


@pytest.mark.browser
@figure("unet")
def test_the_forward_pass_runs_by_itself(live: Live) -> None:
    live.put("step of the forward pass", 15)
    run = live.stage.get_by_role("button", name="Run")
    run.press("Enter")
    live.stage.locator("xpath=self::*[@data-stage='final_conv']").wait_for(timeout=10_000)
    run.wait_for()
