"""The mathematics of the figure "samplers" in JavaScript against helpers, and the figure itself, in a real browser."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from _browser import launched
from _figures import Live, mathematics, open_figure
from torch import Tensor
from torch.testing import assert_close

from helpers import langevin, oracle, samplers, schedules
from helpers.samplers import Euler, Heun, sample_ode

DENSITIES = ["eightGaussians", "unequalModes", "twoMoons", "pinwheel"]
SCHEDULE = schedules.LinearSchedule(1000)

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from launched()


@pytest.fixture(scope="module")
def maths(browser: Any) -> Iterator[Any]:
    """An empty page with the mathematics only: it must not need a document's elements, nor the figures."""
    needed = ("schedules", "mixtures", "histograms", "samplers")
    for page in mathematics(browser, needed, ("mixtures", "samplers", "histograms")):
        page.evaluate("() => { globalThis.seeded = (values) => { let i = 0; return () => values[i++]; }; }")
        yield page


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tensor(numbers: list[float], columns: int = 2) -> Tensor:
    result = torch.tensor(numbers, dtype=torch.float64)
    return result.reshape(-1, columns) if columns else result


def same_density(page: Any, name: str) -> oracle.GaussianMixture:
    """The library's mixture with the components of the figure's density."""
    made = page.evaluate(
        """name => {
            const { means, covariances, weights } = Course.maths.mixtures[name]();
            return { means, covariances, weights };
        }""",
        name,
    )
    means, covariances, weights = (
        torch.tensor(made[k], dtype=torch.float64) for k in ("means", "covariances", "weights")
    )
    return oracle.GaussianMixture(means, covariances, weights)


def places(mixture: oracle.GaussianMixture, alpha_bar: float) -> Tensor:
    """Points where the noised density lives, points between and points far out."""
    inside = mixture.noised(alpha_bar).sample(20, torch.Generator().manual_seed(0))
    return torch.cat([inside, 3 * draw(20, 2, seed=1), torch.tensor([[0.0, 0.0], [9.0, -7.0]], dtype=torch.float64)])


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("alpha_bar", [1.0, 0.97, 0.4, 1e-4])
def test_densities_scores_and_denoisers(maths: Any, name: str, alpha_bar: float) -> None:
    mixture = same_density(maths, name)
    x = places(mixture, alpha_bar)
    found = maths.evaluate(
        """([name, x, a]) => {
            const mixture = Course.maths.mixtures[name](), points = floats(x), noised = mixture.noised(a);
            return {
                log: [...noised.logProb(points)], score: [...noised.score(points)],
                responsibilities: [...noised.responsibilities(points)], eps: [...exactEps(mixture, points, a)],
                smallest: noised.smallestVariance(), marginal: x.map((v, i) => noised.marginal(i % 2)(v)),
            };
        }""",
        [name, x.flatten().tolist(), alpha_bar],
    )
    exact = {"rtol": 1e-10, "atol": 1e-10}
    assert_close(tensor(found["log"], 0), mixture.log_prob(x, alpha_bar), **exact)
    assert_close(tensor(found["score"]), mixture.score(x, alpha_bar), **exact)
    assert_close(tensor(found["responsibilities"], len(mixture.means)), mixture.responsibilities(x, alpha_bar), **exact)
    assert_close(tensor(found["eps"]), -math.sqrt(1 - alpha_bar) * mixture.score(x, alpha_bar), **exact)
    noised = mixture.noised(alpha_bar)
    assert found["smallest"] == pytest.approx(torch.linalg.eigvalsh(noised.covariances).min().item(), rel=1e-10)
    for axis in (0, 1):
        one = oracle.GaussianMixture(
            noised.means[:, [axis]], noised.covariances[:, axis, axis, None, None], noised.weights
        )
        assert_close(tensor(found["marginal"])[:, axis], one.log_prob(x[:, [axis]]).exp(), **exact)


def test_the_eight_gaussians_are_the_librarys(maths: Any) -> None:
    ours, theirs = same_density(maths, "eightGaussians"), oracle.eight_gaussians()
    assert_close(ours.means, theirs.means)
    assert_close(ours.covariances, theirs.covariances)


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("sigma", [0.05, 1.0, 20.0])
def test_the_denoiser_of_continuous_noise(maths: Any, name: str, sigma: float) -> None:
    mixture = same_density(maths, name)
    y = math.sqrt(1 + sigma**2) * places(mixture, 1 / (1 + sigma**2))
    found = maths.evaluate(
        "([name, y, s]) => [...exactDenoiser(Course.maths.mixtures[name]())(floats(y), s)]",
        [name, y.flatten().tolist(), sigma],
    )
    exact = oracle.exact_denoiser(mixture)(y, torch.full((len(y),), sigma, dtype=torch.float64))
    assert_close(tensor(found), exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", DENSITIES)
def test_draws_come_from_the_density(maths: Any, name: str) -> None:
    """Their mean and covariance, within five standard errors, and each mode's share."""
    found = maths.evaluate(
        """name => {
            let state = 7; // a generator of its own: the mathematics takes any
            const uniform = () => (state = (state * 16807) % 2147483647) / 2147483647;
            const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
            const mixture = Course.maths.mixtures[name](), points = mixture.sample(20000, { uniform, normal });
            return { points: [...points], shares: mixture.modeShares(points) };
        }""",
        name,
    )
    x, mixture = tensor(found["points"]), same_density(maths, name)
    mean = mixture.weights @ mixture.means
    centred = mixture.means - mean
    spread = torch.einsum("k,kij->ij", mixture.weights, mixture.covariances + centred[:, :, None] * centred[:, None, :])
    assert ((x.mean(0) - mean).abs() < 5 * (spread.diagonal() / len(x)).sqrt()).all()
    assert ((x.T.cov() - spread).abs() < 5 * 2 * spread.diagonal().max() / math.sqrt(len(x))).all()
    for mode in found["shares"]:
        assert abs(mode["share"] - mode["exact"]) < 4.5 * mode["standardError"]
        assert mode["standardError"] == pytest.approx(math.sqrt(mode["exact"] * (1 - mode["exact"]) / len(x)))
    assert sum(mode["exact"] for mode in found["shares"]) == pytest.approx(1)


def test_spaced_timesteps(maths: Any) -> None:
    counts = [*range(1, 130), 250, 333, 500, 999, 1000]
    found = maths.evaluate("counts => counts.map(n => spacedTimesteps(1000, n))", counts)
    assert [tuple(steps) for steps in found] == [samplers.spaced_timesteps(1000, n) for n in counts]


@pytest.mark.parametrize(("t", "s"), [(999, 998), (500, 120), (30, 0), (0, -1)])
def test_single_steps_of_ddpm_and_ddim(maths: Any, t: int, s: int) -> None:
    x_0, x_t, noise = (draw(6, 2, seed=k) for k in range(3))
    found = maths.evaluate(
        """([x0, xT, a, b, noise]) => {
            [x0, xT, noise] = [x0, xT, noise].map(floats);
            return { ddpm: [...ddpmStep(x0, xT, a, b, noise)], ddim: [...ddimStep(x0, xT, a, b)],
                     half: [...ddimStep(x0, xT, a, b, noise, 0.5)], back: [...predictX0(noise, xT, a)],
                     c: posteriorCoefficients(a, b) };
        }""",
        [
            x_0.flatten().tolist(),
            x_t.flatten().tolist(),
            float(SCHEDULE.alpha_bar(t)),
            float(SCHEDULE.alpha_bar(s)),
            noise.flatten().tolist(),
        ],
    )
    exact = {"rtol": 1e-10, "atol": 1e-10}
    assert_close(tensor(found["ddpm"]), samplers.ddpm_step(x_0, x_t, t, s, SCHEDULE, noise), **exact)
    assert_close(tensor(found["ddim"]), samplers.ddim_step(x_0, x_t, t, s, SCHEDULE), **exact)
    assert_close(tensor(found["half"]), samplers.ddim_step(x_0, x_t, t, s, SCHEDULE, noise, eta=0.5), **exact)
    a = SCHEDULE.alpha_bar(t)
    assert_close(tensor(found["back"]), (x_t - (1 - a).sqrt() * noise) / a.sqrt(), **exact)
    c = SCHEDULE.posterior_coefficients(t, s)
    assert_close(tensor([found["c"][k] for k in ("x0", "xt", "variance")], 0), torch.stack([c.x0, c.xt, c.variance]))


RUN = """([kind, name, alphaBars, n, x, noise, alphaBar]) => {
    const run = makeRun(kind, Course.maths.mixtures[name](), alphaBars, n, alphaBar), draw = seeded(noise);
    const states = [floats(x)];
    for (let k = 0; k < run.stops.length - 1; k++) {
        states.push(run.step(k, states[k], run.stochastic ? states[k].map(draw) : null));
    }
    return { states: states.map(x => [...x]), stops: run.stops, evaluations: run.evaluations, stepSize: run.stepSize };
}"""
ALPHA_BARS = SCHEDULE.alpha_bar(torch.arange(1000)).tolist()


def run(
    page: Any, kind: str, name: str, n: int, x: Tensor, noise: Tensor | None = None, alpha_bar: float = 1.0
) -> dict:
    numbers = [] if noise is None else noise.flatten().tolist()
    return page.evaluate(RUN, [kind, name, ALPHA_BARS, n, x.flatten().tolist(), numbers, alpha_bar])


def noise_of(seed: int, n: int, like: Tensor) -> Tensor:
    """What a generator with this seed gives to n steps, one after the other."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn(like.shape, generator=generator, dtype=like.dtype) for _ in range(n)])


@pytest.mark.parametrize("n", [1, 7, 40])
@pytest.mark.parametrize("kind", ["ddpm", "ddim"])
def test_whole_runs_on_the_schedule(maths: Any, kind: str, n: int) -> None:
    mixture, x_T = same_density(maths, "pinwheel"), draw(9, 2, seed=3)
    sampler = {"ddpm": samplers.DDPMSampler, "ddim": samplers.DDIMSampler}[kind](SCHEDULE, n)
    theirs = samplers.sample(
        oracle.exact_eps_model(mixture, SCHEDULE),
        sampler,
        x_T,
        torch.Generator().manual_seed(5),
        return_trajectory=True,
    )
    ours = run(maths, kind, "pinwheel", n, x_T, noise_of(5, n, x_T))
    assert_close(torch.tensor(ours["stops"]), SCHEDULE.alpha_bar(torch.tensor(theirs.timesteps)).float())
    assert_close(torch.stack([tensor(x) for x in ours["states"]]), theirs.x, rtol=1e-8, atol=1e-8)
    assert ours["evaluations"] == n


@pytest.mark.parametrize("n", [1, 6, 30])
@pytest.mark.parametrize(("kind", "solver"), [("euler", Euler()), ("heun", Heun())])
def test_whole_runs_of_the_ode(maths: Any, kind: str, solver: Any, n: int) -> None:
    mixture, x_T = same_density(maths, "twoMoons"), draw(9, 2, seed=4)
    settings = maths.evaluate("SETTINGS")
    sigmas = schedules.karras_sigmas(n, settings["sigmaMin"], settings["sigmaMax"])
    start = x_T * (1 + sigmas[0] ** 2).sqrt()
    theirs = sample_ode(
        oracle.exact_denoiser(mixture), solver, start, schedules.append_zero(sigmas), return_trajectory=True
    )
    ours = run(maths, kind, "twoMoons", n, x_T)
    assert_close(tensor(ours["states"][-1]), theirs.samples, rtol=1e-8, atol=1e-8)
    assert ours["evaluations"] == samplers.evaluations(solver, n)


@pytest.mark.parametrize("n", [3, 40])
def test_annealed_langevin_dynamics(maths: Any, n: int) -> None:
    mixture, x_T = same_density(maths, "unequalModes"), draw(9, 2, seed=6)
    settings = maths.evaluate("SETTINGS")
    each = min(n, settings["stepsPerLevel"])
    sigmas = schedules.log_snr_sigmas(n // each, settings["sigmaMin"], settings["sigmaMax"])
    start = x_T * (1 + sigmas[0] ** 2).sqrt()
    denoiser = oracle.exact_denoiser(mixture)
    theirs = langevin.annealed_langevin_dynamics(
        lambda y, sigma: (denoiser(y, sigma) - y) / sigma[:, None] ** 2,
        start,
        sigmas,
        each,
        settings["relativeStep"],
        denoise_last=True,
        generator=torch.Generator().manual_seed(8),
    )
    ours = run(maths, "annealed", "unequalModes", n, x_T, noise_of(8, n + 1, x_T))
    assert_close(tensor(ours["states"][-1]), theirs, rtol=1e-7, atol=1e-7)
    assert ours["evaluations"] == n // each * each + 1 == len(ours["stops"]) - 1


@pytest.mark.parametrize("alpha_bar", [1.0, 0.3])
def test_plain_langevin_dynamics(maths: Any, alpha_bar: float) -> None:
    mixture, x = same_density(maths, "unequalModes"), draw(9, 2, seed=7)
    ours = run(maths, "langevin", "unequalModes", 12, x, noise_of(9, 12, x), alpha_bar)
    noised = mixture.noised(alpha_bar)
    smallest = torch.linalg.eigvalsh(noised.covariances).min().item()
    assert ours["stepSize"] == pytest.approx(maths.evaluate("SETTINGS.relativeStep") * smallest, rel=1e-12)
    theirs = langevin.langevin_dynamics(
        noised.energy, x, 12, ours["stepSize"], generator=torch.Generator().manual_seed(9)
    )
    assert_close(tensor(ours["states"][-1]), theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", DENSITIES)
def test_cells_and_the_floor_of_chance(maths: Any, name: str) -> None:
    """Exact shares against a fine quadrature of the library's density; the floor against exact draws of the library."""
    mixture, n = same_density(maths, name), 500
    x = mixture.sample(40 * n, torch.Generator().manual_seed(2))
    found = maths.evaluate(
        """([name, points, n]) => {
            const cells = new Cells(3, 12), exact = cells.probabilities(Course.maths.mixtures[name]());
            const shares = points.map(p => cells.shares(floats(p)));
            return { exact: [...exact], floor: samplingFloor(exact, n), first: [...shares[0]],
                     distances: shares.map(share => totalVariation(share, exact)) };
        }""",
        [name, x.reshape(40, -1).tolist(), n],
    )
    fine = (torch.arange(480, dtype=torch.float64) + 0.5) / 80 - 3
    row, column = torch.meshgrid(fine, fine, indexing="ij")
    density = mixture.log_prob(torch.stack([column.flatten(), row.flatten()], dim=1)).exp().reshape(12, 40, 12, 40)
    exact = density.sum((1, 3)).flatten() / 80**2
    # The midpoint rule is the cruder of the two; its error falls with the square of the spacing.
    assert_close(tensor(found["exact"], 0)[:-1], exact, rtol=0, atol=2e-4)
    assert sum(found["exact"]) == pytest.approx(1)
    counts = torch.histogramdd(x[:n].flip(1), [12, 12], range=[-3.0, 3.0, -3.0, 3.0]).hist
    assert_close(tensor(found["first"], 0)[:-1], counts.flatten() / n)
    k, p = torch.arange(n + 1, dtype=torch.float64), tensor(found["exact"], 0)
    binomial = torch.distributions.Binomial(n, p[:, None], validate_args=False).log_prob(k).exp().nan_to_num()
    assert found["floor"] == pytest.approx(0.5 * (binomial * (k / n - p[:, None]).abs()).sum().item(), rel=1e-9)
    distances = tensor(found["distances"], 0)
    assert abs(distances.mean() - found["floor"]) < 4 * distances.std() / math.sqrt(40)


# --- the figure, driven


@pytest.fixture
def live(browser: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Live]:
    """The figure alone on a page; options of the browser's window by ``indirect`` parameters."""
    live = open_figure(browser, "samplers", tmp_path, **getattr(request, "param", {}))
    live.page.set_default_timeout(8000)
    yield live
    live.page.context.close()
    assert (live.outside, live.complaints) == ([], [])


def set_steps(live: Live, n: int) -> None:
    """By keyboard, as a reader would."""
    live.press("Number of steps", "Home")
    for _ in range(40):
        if live.control("Number of steps").get_attribute("aria-valuetext") == str(n):
            return
        live.page.keyboard.press("ArrowRight")
    raise AssertionError(f"no setting of {n} steps")


def to_the_end(live: Live) -> None:
    live.press("Step of the run", "End")
    assert live.data("stop") == live.data("stops")


def modes(live: Live) -> list[dict[str, float]]:
    return json.loads(live.data("modes"))


def finished(live: Live) -> str:
    """What the plot of finished runs says of itself."""
    return live.stage.locator("canvas").last.get_attribute("aria-label")


def wrong_share(live: Live) -> float:
    """Half the summed difference between the modes' shares and the exact ones."""
    return sum(abs(mode["share"] - mode["exact"]) for mode in modes(live)) / 2


@pytest.mark.parametrize("kind", ["ddpm", "ddim", "euler", "heun", "annealed"])
@pytest.mark.parametrize("density", ["twoMoons", "unequalModes"])
def test_with_many_steps_particles_are_where_exact_draws_are(live: Live, kind: str, density: str) -> None:
    live.put("Density of the data", density)
    live.put("Sampler", kind)
    set_steps(live, 200)
    to_the_end(live)
    assert live.number("alphaBar") == 1
    assert live.number("outOfPlace") < 1.6 * live.number("floor") + 0.03
    for mode in modes(live):
        assert abs(mode["share"] - mode["exact"]) < 4 * mode["standardError"] + 0.06 * (kind == "annealed")


@pytest.mark.parametrize("kind", ["ddpm", "ddim", "heun"])
def test_few_steps_are_poor_and_the_ode_needs_the_fewest(live: Live, kind: str) -> None:
    live.put("Sampler", kind)
    to_the_end(live)
    found = {}
    for n in (3, 10):
        set_steps(live, n)
        assert live.number("stops") == n
        found[n] = live.number("outOfPlace")
    floor = live.number("floor")
    assert found[3] > 4 * floor
    assert (found[10] < 1.6 * floor) == (kind == "heun")


def test_langevin_alone_does_not_mix_and_noise_helps(live: Live) -> None:
    live.put("Density of the data", "unequalModes")
    live.put("Sampler", "langevin")
    set_steps(live, 200)
    to_the_end(live)
    assert live.number("alphaBar") == 1
    assert wrong_share(live) > 0.2
    assert live.number("outOfPlace") > 2.5 * live.number("floor")
    assert re.search(r"Langevin: [^;]*\b200 calls", finished(live))
    live.put("Noise level of the chain", 250)  # there the modes have run together
    to_the_end(live)
    assert f"Langevin at a noise level: 200 calls {100 * live.number('outOfPlace'):.1f} %" in finished(live)
    assert live.number("alphaBar") == pytest.approx(float(SCHEDULE.alpha_bar(250)), rel=1e-6)
    assert wrong_share(live) < 0.05
    assert live.number("outOfPlace") < 1.6 * live.number("floor")


def test_numbers_are_those_of_the_particles(live: Live) -> None:
    """The same run in the library's hands: DDIM draws nothing, so the figure's starts lead to the library's ends."""
    live.put("Density of the data", "unequalModes")
    set_steps(live, 10)
    to_the_end(live)
    start = live.evaluate(
        "() => { const rng = Course.figures.rng(1); return Array.from({ length: 2000 }, () => rng.normal()); }"
    )
    mixture = same_density(live.page, "unequalModes")
    x = samplers.sample(oracle.exact_eps_model(mixture, SCHEDULE), samplers.DDIMSampler(SCHEDULE, 10), tensor(start))
    shares = mixture.responsibilities(x).mean(0)
    assert_close(tensor([mode["share"] for mode in modes(live)], 0), shares, rtol=1e-8, atol=1e-8)
    assert_close(tensor([mode["exact"] for mode in modes(live)], 0), mixture.weights)
    assert live.readout("Out of place") == f"{100 * live.number('outOfPlace'):.1f} %"
    assert live.readout("Network calls") == "10"


def test_the_noise_slider_and_the_run_move_together(live: Live) -> None:
    set_steps(live, 10)
    live.press("Step of the run", "Home")
    assert live.control("Noise level of the arrows").input_value() == "999"
    assert live.readout("Signal left, ᾱ") == "< 0.001"
    live.press("Step of the run", *["ArrowRight"] * 7)
    t = samplers.spaced_timesteps(1000, 10)[7]
    assert live.control("Noise level of the arrows").input_value() == str(t)
    assert live.number("alphaBar") == pytest.approx(float(SCHEDULE.alpha_bar(t)), rel=1e-9)
    live.put("Noise level of the arrows", 450)  # between the steps at 499 and 399
    assert live.control("Step of the run").input_value() == "5"
    live.press("Noise level of the arrows", "Home")
    assert live.data("stop") == "10"


def test_it_opens_with_a_finished_run_that_can_be_played_again(live: Live) -> None:
    assert live.number("stop") == live.number("stops") == 20
    assert "DDIM: 20 calls" in finished(live)
    set_steps(live, 1)
    assert "1 call " in finished(live)
    set_steps(live, 20)
    live.stage.get_by_role("button", name="Play again").click()
    assert live.number("stop") < 20
    live.stage.get_by_role("button", name="Pause").click()


def test_play_runs_to_the_end_and_can_rest(live: Live) -> None:
    live.press("Step of the run", "Home")
    play = live.stage.locator("button").first
    play.click()
    live.page.wait_for_function("document.querySelector('.figure-stage').dataset.stop > 3")
    play.click()
    assert play.inner_text() == "Play"
    rested = live.number("stop")
    live.page.wait_for_timeout(300)
    assert live.number("stop") == rested < live.number("stops")
    play.click()
    live.page.wait_for_function(
        "(({ stop, stops }) => stop === stops)(document.querySelector('.figure-stage').dataset)"
    )
    live.page.wait_for_function("document.querySelector('.figure-stage button').textContent === 'Play again'")


@pytest.mark.parametrize("live", [{"reduced_motion": "reduce"}], indirect=True, ids=["reduced-motion"])
def test_reduced_motion_gets_the_result_at_once(live: Live) -> None:
    live.stage.get_by_role("button", name="Back to noise").click()
    assert live.data("stop") == "0"
    live.stage.get_by_role("button", name="Show the result").click()
    assert live.data("stop") == live.data("stops")
