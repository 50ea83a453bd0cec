"""The mathematics of the figure "langevin" in JavaScript against helpers, and the figure itself, in a real browser."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from _browser import launched
from _figures import Live, mathematics, open_figure
from axe_playwright_python.sync_playwright import Axe
from torch import Tensor
from torch.testing import assert_close

from helpers import energy, langevin, oracle

EXACT = {"rtol": 1e-10, "atol": 1e-10}

pytestmark = pytest.mark.browser


def wells(x: Tensor) -> Tensor:
    """The landscape of lesson 7."""
    return 2 * (x[:, 0] ** 2 - 1) ** 2 + 0.5 * x[:, 0]


def uneven(x: Tensor) -> Tensor:
    """Its narrow and its wide well."""
    parts = [lambda x: ((x[:, 0] + 1.2) / 0.12) ** 2 / 2, lambda x: ((x[:, 0] - 1) / 0.6) ** 2 / 2]
    return energy.Mixture(parts, log_weights=[0.0, -1.0])(x)


ENERGIES: dict[str, Callable[[Tensor], Tensor]] = {
    "gaussian(0.7)": lambda x: x.square().sum(1) / (2 * 0.7**2),
    "doubleWell()": wells,
    "unevenWells()": uneven,
}
each_energy = pytest.mark.parametrize("name", ENERGIES)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from launched()


@pytest.fixture(scope="module")
def maths(browser: Any) -> Iterator[Any]:
    yield from mathematics(browser, ("langevin", "histograms", "chains"), ("langevin", "chains", "histograms"))


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def column(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


@each_energy
def test_energies_and_gradients(maths: Any, name: str) -> None:
    x = torch.cat([torch.linspace(-3, 3, 41, dtype=torch.float64), draw(10, seed=0)])[:, None]
    found = maths.evaluate(
        f"x => {{ const e = {name}; return {{ value: x.map(e.value), gradient: x.map(e.gradient) }}; }}",
        x[:, 0].tolist(),
    )
    assert_close(column(found["value"])[:, 0], ENERGIES[name](x), **EXACT)
    assert_close(column(found["gradient"]), -energy.score(ENERGIES[name], x), **EXACT)


@each_energy
def test_a_step_of_langevin_dynamics(maths: Any, name: str) -> None:
    x, generator = draw(8, 1, seed=1), torch.Generator().manual_seed(2)
    noise = torch.stack([torch.randn(8, 1, generator=generator, dtype=torch.float64) for _ in range(3)])
    theirs = langevin.langevin_dynamics(
        ENERGIES[name], x, 3, 0.01, temperature=0.6, generator=torch.Generator().manual_seed(2)
    )
    ours = maths.evaluate(
        f"""([x, noise]) => {{
            const e = {name};
            for (const xi of noise) x = langevinStep(floats(x), floats(x).map(e.gradient), 0.01, 0.6, xi);
            return [...x];
        }}""",
        [x[:, 0].tolist(), noise[..., 0].tolist()],
    )
    assert_close(column(ours), theirs, **EXACT)


@each_energy
def test_the_ratio_of_a_proposal(maths: Any, name: str) -> None:
    f, step_size, temperature = ENERGIES[name], 0.07, 0.8
    x, x_new = draw(12, 1, seed=3), draw(12, 1, seed=4)
    there = langevin.log_proposal(x_new, x, -energy.score(f, x), step_size, temperature)
    back = langevin.log_proposal(x, x_new, -energy.score(f, x_new), step_size, temperature)
    ours = maths.evaluate(
        f"([x, y]) => x.map((v, i) => malaLogRatio({name}, v, y[i], {step_size}, {temperature}))",
        [x[:, 0].tolist(), x_new[:, 0].tolist()],
    )
    assert_close(column(ours)[:, 0], (f(x) - f(x_new)) / temperature + back - there, **EXACT)


def test_the_ratio_on_a_gaussian_is_the_closed_form(maths: Any) -> None:
    x, x_new = draw(12, 1, seed=5), draw(12, 1, seed=6)
    ours = maths.evaluate(
        """([x, y]) => [
            x.map((v, i) => malaLogRatio(gaussian(1), v, y[i], 1.3, 1)),
            x.map((v, i) => malaLogAcceptance(v, y[i], 1.3)),
        ]""",
        [x[:, 0].tolist(), x_new[:, 0].tolist()],
    )
    exact = oracle.mala_log_acceptance(x, x_new, 1.3)
    assert_close(column(ours[0])[:, 0], exact, **EXACT)
    assert_close(column(ours[1])[:, 0], exact, **EXACT)


@each_energy
def test_a_run_of_mala(maths: Any, name: str) -> None:
    """The same proposals and the same decisions, eight steps in a row."""
    x, generator = draw(40, 1, seed=7), torch.Generator().manual_seed(8)
    randomness = [
        (torch.randn(40, 1, generator=generator, dtype=torch.float64)[:, 0].tolist(),
         torch.rand(40, generator=generator, dtype=torch.float64).tolist())
        for _ in range(8)
    ]  # fmt: skip
    theirs = langevin.mala(ENERGIES[name], x, 8, 0.15, 0.9, generator=torch.Generator().manual_seed(8))
    ours = maths.evaluate(
        f"""([x, randomness]) => {{
            let accepted = 0;
            x = floats(x);
            for (const [noise, uniform] of randomness) {{
                const step = malaStep({name}, x, 0.15, 0.9, noise, uniform);
                x = step.x;
                accepted += step.accepted;
            }}
            return {{ x: [...x], accepted }};
        }}""",
        [x[:, 0].tolist(), randomness],
    )
    assert_close(column(ours["x"]), theirs.x, **EXACT)
    assert ours["accepted"] == round(theirs.acceptance.sum().item() * 8)
    assert 0 < ours["accepted"] < 320  # both decisions were made


@pytest.mark.parametrize("std", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("relative", [0.01, 0.5, 2.0, 3.9])
def test_closed_forms(maths: Any, std: float, relative: float) -> None:
    step_size = relative * std**2
    found = maths.evaluate(
        """([s, e]) => [
            ulaStabilityLimit(s), ulaVariance(s, e, 0.7), ulaAutocorrelation(s, e, 3), ulaVariance(s, 4 * s * s),
        ]""",
        [std, step_size],
    )
    assert found[0] == oracle.ula_stability_limit(std)
    assert found[1] == pytest.approx(oracle.ula_variance(std, step_size, 0.7), rel=1e-12)
    assert found[2] == pytest.approx(oracle.ula_autocorrelation(std, step_size, 3), rel=1e-12)
    assert found[3] == math.inf


@each_energy
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_the_gibbs_density_and_the_mean_acceptance(maths: Any, name: str, temperature: float) -> None:
    """Against sums over other grids, of the library's energies."""
    found = maths.evaluate(
        f"""T => {{
            const {{ logZ, mean, variance, below }} = gibbs({name}, T);
            const rate = malaAcceptance({name}, 0.1, T);
            return {{ logZ, mean, variance, below: [below(-0.6), below(0.0037)], rate }};
        }}""",
        temperature,
    )
    grid = oracle.Grid(-10.0, 10.0, n=6001, dim=1)
    x, f = grid.points, ENERGIES[name]
    p = (-f(x) / temperature - grid.log_integral(-f(x) / temperature)).exp() * grid.spacing
    assert found["logZ"] == pytest.approx(grid.log_integral(-f(x) / temperature).item(), abs=1e-9)
    mean = (p * x[:, 0]).sum()
    assert found["mean"] == pytest.approx(mean.item(), abs=1e-8)
    assert found["variance"] == pytest.approx((p * (x[:, 0] - mean) ** 2).sum().item(), rel=1e-8)
    for limit, share in zip((-0.6, 0.0037), found["below"], strict=True):
        assert share == pytest.approx(p[x[:, 0] < limit].sum().item(), abs=5e-3)

    draws = x[torch.multinomial(p, 40_000, replacement=True, generator=torch.Generator().manual_seed(0))]
    score = energy.score(f, draws)
    proposal = draws + 0.05 * score + math.sqrt(0.1 * temperature) * draw(len(draws), 1, seed=9)
    there = langevin.log_proposal(proposal, draws, -score, 0.1, temperature)
    back = langevin.log_proposal(draws, proposal, -energy.score(f, proposal), 0.1, temperature)
    accept = ((f(draws) - f(proposal)) / temperature + back - there).exp().clamp(max=1)
    assert abs(accept.mean().item() - found["rate"]) < 4.5 * accept.std().item() / math.sqrt(len(draws)) + 1e-3


def test_averages_of_chains_with_their_errors(maths: Any) -> None:
    """Moments and errors as the definitions say, from a trajectory that the page hands over."""
    found = maths.evaluate("""() => {
        let state = 11;
        const uniform = () => (state = (state * 16807) % 2147483647) / 2147483647;
        const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
        const settings = { energy: gaussian(1), stepSize: 1, temperature: 1, adjusted: true, centre: 0.2, burnIn: 3 };
        const chains = new Chains(new Float64Array(50), settings, { uniform, normal }), states = [[...chains.x]];
        for (let k = 0; k < 20; k++) { chains.step(); states.push([...chains.x]); }
        return { states, spread: chains.averageSpread(), acceptance: chains.acceptance(), now: chains.spread(),
                 below: chains.below(0.1), mean: chains.mean(), lost: chains.lost, averaged: chains.averaged };
    }""")
    x = torch.tensor(found["states"], dtype=torch.float64)
    squares = (x[4:] - 0.2).square().mean(0)
    moved = langevin.acceptance(x[3:, :, None])
    for values, name in ((squares, "spread"), (moved, "acceptance")):
        assert found[name]["mean"] == pytest.approx(values.mean().item(), rel=1e-12)
        assert found[name]["error"] == pytest.approx(values.std().item() / math.sqrt(50), rel=1e-10)
    assert found["now"] == pytest.approx((x[-1] - 0.2).square().mean().item())
    assert found["below"] == pytest.approx((x[-1] < 0.1).double().mean().item())
    assert found["mean"] == pytest.approx(x[-1].mean().item())
    assert (found["lost"], found["averaged"]) == (0, 17)


def test_chains_that_run_away_stop_before_numbers_overflow(maths: Any) -> None:
    found = maths.evaluate("""() => {
        const settings = { energy: doubleWell(), stepSize: 0.5, temperature: 1, adjusted: false, centre: 0, burnIn: 0 };
        const chains = new Chains([5, -5, 1e9], settings, { uniform: () => 0.5, normal: () => 0 });
        for (let k = 0; k < 50; k++) chains.step();
        return { x: [...chains.x], lost: chains.lost, limit: LOST };
    }""")
    assert found["lost"] == 3
    assert all(math.isfinite(x) and abs(x) >= found["limit"] for x in found["x"])


# --- the figure, driven


@pytest.fixture
def live(browser: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Live]:
    """The figure alone on a page; options of the browser's window by ``indirect`` parameters."""
    live = open_figure(browser, "langevin", tmp_path, **getattr(request, "param", {}))
    live.page.set_default_timeout(8000)
    yield live
    live.page.context.close()
    assert (live.outside, live.complaints) == ([], [])


def set_slider(live: Live, label: str, text: str) -> None:
    """By keyboard, as a reader would: home, then to the right until the output says so."""
    live.press(label, "Home")
    for _ in range(60):
        if live.control(label).get_attribute("aria-valuetext") == text:
            return
        live.page.keyboard.press("ArrowRight")
    raise AssertionError(f"{label} never shows {text}")


def click(live: Live, name: str, times: int = 1) -> None:
    for _ in range(times):
        live.stage.get_by_role("button", name=name, exact=True).click()


def agrees(live: Live, name: str, exact: float, tolerance: float = 0.0) -> bool:
    """Whether a measured number is within four of its own standard errors of the exact one."""
    return abs(live.number(name) - exact) < 4 * live.number(f"{name}Error") + tolerance


@pytest.mark.parametrize("step_size", ["0.2", "1", "2", "3"])
def test_measured_variance_is_that_of_the_formula(live: Live, step_size: str) -> None:
    assert live.readout("Accepted") == "no accept step"
    set_slider(live, "Step size ε", step_size)
    click(live, "500 steps", 2)
    exact = oracle.ula_variance(1.0, float(step_size))
    assert live.number("formula") == pytest.approx(exact, rel=1e-10)
    assert agrees(live, "variance", exact)
    assert live.number("varianceError") < 0.25 * (exact - 1)  # small enough to see the bias
    assert live.readout("… by formula") == f"{exact:.3f}"
    measured = f"{live.number('variance'):.3f} ± {live.number('varianceError'):.3f}"
    assert live.readout("Variance, measured") == measured


def test_width_and_temperature_scale_the_variance(live: Live) -> None:
    set_slider(live, "Width σ", "0.60")
    set_slider(live, "Temperature T", "0.5")
    set_slider(live, "Step size ε", "0.7")
    click(live, "500 steps", 2)
    exact = oracle.ula_variance(0.6, 0.7, 0.5)
    assert live.number("formula") == pytest.approx(exact, rel=1e-10)
    assert live.number("wanted") == pytest.approx(0.5 * 0.6**2, rel=1e-10)
    assert live.number("limit") == pytest.approx(oracle.ula_stability_limit(0.6))
    assert agrees(live, "variance", exact)


@pytest.mark.parametrize("step_size", ["1", "3", "6"])
def test_mala_is_exact_at_every_step_size(live: Live, step_size: str) -> None:
    live.press("Accept step (MALA)", "Space")
    set_slider(live, "Step size ε", step_size)
    click(live, "500 steps", 3)
    assert agrees(live, "variance", 1.0)
    assert agrees(live, "acceptance", live.number("acceptanceExact"), 1e-3)
    x = draw(4000, 1, seed=10)
    theirs = langevin.mala(
        lambda x: x.square().sum(1) / 2, x, 50, float(step_size), generator=torch.Generator().manual_seed(2)
    ).acceptance
    error = theirs.std().item() / math.sqrt(len(x))
    assert abs(live.number("acceptanceExact") - theirs.mean().item()) < 4.5 * error + 1e-3


@pytest.mark.parametrize("step_size", ["4.2", "6"])
def test_divergence_is_said_and_leaves_no_garbage(live: Live, step_size: str) -> None:
    set_slider(live, "Step size ε", step_size)
    click(live, "500 steps", 2)
    assert (live.data("unstable"), live.number("lost")) == ("true", 1000)
    assert live.readout("Variance, measured") == "runs away"
    assert live.readout("… by formula") == "none"
    assert "above 4σ² = 4" in live.readout("note")
    assert f"the first after {live.data('outAfter')} steps" in live.readout("note")
    assert live.number("zoom") * 4 >= 1e6  # the axes have followed them: |x| = 10⁶ is seen
    labels = live.stage.locator("canvas").evaluate_all("all => all.map(c => c.getAttribute('aria-label')).join()")
    assert not re.search(r"NaN|undefined|null|Infinity", live.stage.inner_text() + labels)
    set_slider(live, "Step size ε", "1")  # and back again: new chains
    click(live, "500 steps")
    assert (live.data("unstable"), live.number("lost")) == ("false", 0)
    assert agrees(live, "variance", oracle.ula_variance(1.0, 1.0))


def test_the_button_crosses_the_limit_slowly_and_leads_back(live: Live) -> None:
    """Just past the limit the crowd grows as the recursion of its moments says, and the axes grow with it."""
    click(live, "Try ε = 4.2")
    click(live, "Pause")
    assert (live.data("unstable"), live.number("limit")) == ("true", 4.0)
    click(live, "One step", 30)
    assert live.number("lost") == 0
    assert live.number("spread") > 50
    error = math.sqrt(2 / 1000) * live.number("spreadExact")  # of the mean of a thousand squares of normal numbers
    assert abs(live.number("spread") - live.number("spreadExact")) < 5 * error
    assert live.number("zoom") >= 5
    click(live, "Back to ε = 1")
    click(live, "Pause")
    click(live, "500 steps")
    assert (live.data("unstable"), live.number("zoom")) == ("false", 1)
    assert agrees(live, "variance", oracle.ula_variance(1.0, 1.0))
    live.press("Accept step (MALA)", "Space")  # no limit there, so nothing to cross
    assert live.stage.get_by_role("button", name="Try ε = 4.2").count() == 0


def test_a_step_after_all_chains_have_stopped_begins_anew(live: Live) -> None:
    set_slider(live, "Step size ε", "8")
    click(live, "500 steps")
    assert live.number("lost") == 1000
    click(live, "One step")
    assert (live.number("lost"), live.number("step")) == (0, 1)


def test_wells_reach_their_exact_shares_when_warm_and_not_when_cold(live: Live) -> None:
    live.put("Energy", "doubleWell")
    assert live.number("left") < 0.01
    click(live, "500 steps", 3)
    points = oracle.Grid(-4.0, 4.0, n=4001, dim=1).points
    exact = (-wells(points)).softmax(0)[points[:, 0] < 0].sum().item()
    assert live.number("leftExact") == pytest.approx(exact, abs=2e-3)
    # A step of 0.05 has a bias of its own, hence a little room.
    assert abs(live.number("left") - exact) < 4 * math.sqrt(exact * (1 - exact) / 1000) + 0.02
    set_slider(live, "Temperature T", "0.2")
    click(live, "Start again")
    click(live, "500 steps", 3)
    assert live.number("leftExact") > 0.95
    assert live.number("left") < 0.3


def test_a_step_that_is_too_long_for_the_wells_is_explained(live: Live) -> None:
    live.put("Energy", "doubleWell")
    set_slider(live, "Step size ε", "0.85")
    click(live, "500 steps")
    assert live.number("lost") > 0
    assert "run away" in live.readout("note")
    assert live.readout("Variance, measured") == "runs away"


def test_play_moves_and_pauses(live: Live) -> None:
    before = live.number("step")
    click(live, "Play")
    live.page.wait_for_function(f"document.querySelector('.figure-stage').dataset.step > {before + 5}")
    click(live, "Pause")
    rested = live.number("step")
    live.page.wait_for_timeout(300)
    assert (live.data("running"), live.number("step")) == ("false", rested)
    click(live, "One step")
    assert live.number("step") == rested + 1


@pytest.mark.parametrize("live", [{"reduced_motion": "reduce"}], indirect=True, ids=["reduced-motion"])
def test_reduced_motion_gets_results_at_once(live: Live) -> None:
    assert live.stage.get_by_role("button", name="Play", exact=True).count() == 0
    set_slider(live, "Step size ε", "2")
    assert agrees(live, "variance", oracle.ula_variance(1.0, 2.0))
    rested = live.number("step")
    live.page.wait_for_timeout(300)
    assert live.number("step") == rested


@pytest.mark.parametrize("energy_name", ["doubleWell", "unevenWells"])
def test_other_landscapes_are_accessible_too(live: Live, energy_name: str) -> None:
    """What changes with the landscape; as it opens, each figure is looked at in test_figures.py."""
    live.put("Energy", energy_name)
    live.press("Accept step (MALA)", "Space")
    click(live, "500 steps")
    found = Axe().run(live.page, options={"resultTypes": ["violations"], "preload": False}).response["violations"]
    assert [v["id"] for v in found if v["impact"] in {"serious", "critical"}] == []
    assert not live.control("Width σ").is_visible()
