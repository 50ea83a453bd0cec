"""Tests of the solvers in continuous noise: orders against exact solutions, and `diffusers` step by step."""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from tqdm import tqdm

from helpers import zoo
from helpers.diffusion import convert
from helpers.oracle import GaussianMixture, exact_denoiser, exact_eps_model, two_gaussians
from helpers.samplers import (
    IPNDM,
    Churn,
    ContinuousTrajectory,
    DDIMSampler,
    DPMSolverPP2M,
    Euler,
    Heun,
    Solver,
    UniPC,
    as_denoiser,
    evaluations,
    sample,
    sample_ode,
    steps_for,
)
from helpers.schedules import LinearSchedule, append_zero, karras_sigmas, log_snr_sigmas

SOLVERS = {
    "euler": Euler(),
    "heun": Heun(),
    "2m": DPMSolverPP2M(),
    "ipndm": IPNDM(),
    "unipc": UniPC(),
    "unipc-bh1": UniPC("bh1"),
}
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
GRIDS = {"karras": karras_sigmas, "log-snr": log_snr_sigmas}
every_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def toy_denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    """Some smooth function of x and σ: what holds for every denoiser must hold for this one."""
    s = sigma.reshape(-1, *[1] * (x.ndim - 1))
    return 0.8 * torch.tanh(x / (1 + s)) + 0.1 * torch.sin(3 * x) / (1 + s)


class Spy:
    """Counts calls, and remembers σ, dtypes and labels."""

    def __init__(self, denoiser: Callable[..., Tensor] = toy_denoiser) -> None:
        self.denoiser = denoiser
        self.sigmas: list[float] = []
        self.dtypes: set[torch.dtype] = set()

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.shape == x.shape[:1]
        assert len(set(sigma.tolist())) == 1
        self.sigmas.append(float(sigma[0]))
        self.dtypes |= {x.dtype, sigma.dtype}
        return self.denoiser(x, sigma)


# ── order of accuracy ─────────────────────────────────────────────────────

MEAN, STD = 0.7, 0.5


def of_a_gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x_0 | x] for x_0 ~ N(MEAN, STD²)."""
    return MEAN + STD**2 / (STD**2 + sigma.reshape(-1, 1) ** 2) * (x - MEAN)


def exact_flow(x: Tensor, sigma_from: float, sigma_to: float) -> Tensor:
    """The solution of the probability-flow ODE: (x − μ)/√(s² + σ²) does not change."""
    return MEAN + (x - MEAN) * math.sqrt((STD**2 + sigma_to**2) / (STD**2 + sigma_from**2))


def slopes(solver: Solver, grid: Callable[..., Tensor], ends: tuple[float, float], counts: list[int]) -> list[float]:
    """log₂ of the ratio of errors when the number of steps doubles."""
    x_T = MEAN + torch.tensor([[1.0], [-1.1], [0.3]], dtype=torch.float64) * ends[1]
    errors = []
    for n in counts:
        x = sample_ode(of_a_gaussian, solver, x_T, grid(n + 1, *ends), partial=True)
        errors.append(float((x - exact_flow(x_T, ends[1], ends[0])).abs().max()))
    return [math.log2(a / b) for a, b in itertools.pairwise(errors)]


@every_grid
@pytest.mark.parametrize(
    ("name", "order"),
    [("euler", 1), ("heun", 2), ("2m", 2), ("ipndm", 2), ("unipc", 4), ("unipc-bh1", 4)],
)
def test_order_of_accuracy_from_much_noise(name: str, order: int, grid: Callable[..., Tensor]) -> None:
    """From σ = 80 to 0.05. There D hardly moves at first: the low order of a multistep solver's start does not show."""
    for slope in slopes(SOLVERS[name], grid, (0.05, 80.0), [160, 320, 640]):
        assert slope == pytest.approx(order, abs=0.13)


@every_grid
@pytest.mark.parametrize(
    ("name", "order"),
    [("euler", 1), ("heun", 2), ("2m", 2), ("ipndm", 2), ("unipc", 3), ("unipc-bh1", 3)],
)
def test_order_of_accuracy_with_the_start(name: str, order: int, grid: Callable[..., Tensor]) -> None:
    """From σ = 0.5 to 0.1, where all steps matter: the first step of UniPC is of third order, all others of fourth."""
    for slope in slopes(SOLVERS[name], grid, (0.1, 0.5), [160, 320, 640]):
        assert slope == pytest.approx(order, abs=0.13)


def test_ipndm_is_better_than_second_order_only_where_its_weights_are_right() -> None:
    def even(n: int, low: float, high: float) -> Tensor:
        return torch.linspace(high, low, n, dtype=torch.float64)

    assert min(slopes(SOLVERS["ipndm"], even, (0.5, 5.0), [40, 80, 160])) > 3.4
    assert max(slopes(SOLVERS["ipndm"], karras_sigmas, (0.5, 5.0), [40, 80, 160])) < 2.5


TWO = two_gaussians(distance=2.0, std=0.3, weights=(0.6, 0.4))


@pytest.fixture(scope="module")
def fine_solution() -> tuple[Tensor, Tensor]:
    """Starts at σ = 10, and their ends at σ = 0.05: Heun's method with 500 and 1,000 steps, extrapolated."""
    x_T = 10 * torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    coarse, fine = (
        sample_ode(exact_denoiser(TWO), Heun(), x_T, karras_sigmas(n + 1, 0.05, 10.0), partial=True)
        for n in (500, 1000)
    )
    return x_T, (4 * fine - coarse) / 3


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("euler", 0.9, 1.1), ("heun", 1.9, 2.1), ("2m", 1.9, 2.1), ("ipndm", 1.9, 2.1), ("unipc", 3.6, 4.4)],
)
def test_order_of_accuracy_where_the_denoiser_is_not_linear(
    name: str, least: float, most: float, fine_solution: tuple[Tensor, Tensor]
) -> None:
    x_T, expected = fine_solution
    errors = []
    for n in (60, 120, 240):
        x = sample_ode(exact_denoiser(TWO), SOLVERS[name], x_T, karras_sigmas(n + 1, 0.05, 10.0), partial=True)
        errors.append(float((x - expected).abs().mean()))
    for a, b in itertools.pairwise(errors):
        assert least < math.log2(a / b) < most


def test_multistep_solvers_are_worth_their_history() -> None:
    """Twenty evaluations from noise to data, on the Gaussian: each refinement of the model of D must pay."""
    x_T = 80 * normal(50, 1)
    exact = exact_flow(x_T, 80.0, 0.0)
    errors = {}
    for name, solver in SOLVERS.items():
        grid = append_zero(log_snr_sigmas(steps_for(solver, 20)))
        errors[name] = float((sample_ode(of_a_gaussian, solver, x_T, grid) - exact).square().mean().sqrt())
    assert errors["2m"] < 0.25 * errors["euler"]
    assert errors["ipndm"] < 0.25 * errors["euler"]
    assert errors["unipc"] < 0.15 * errors["2m"]


# ── exact cases ───────────────────────────────────────────────────────────


@every_solver
@pytest.mark.parametrize("grid", [[80.0, 0.0], [80.0, 3.0, 0.5, 0.0]], ids=["one-step", "three-steps"])
def test_a_point_mass_is_found_exactly(solver: Solver, grid: list[float]) -> None:
    """D constant makes every solution a straight line to it."""
    point = normal(3, 2)
    spy = Spy(lambda x, sigma: point)
    run = sample_ode(spy, solver, 80 * normal(3, 2, seed=1), grid, return_trajectory=True)
    torch.testing.assert_close(run.samples, point, rtol=0, atol=1e-12)
    for state, sigma in zip(run.x, grid, strict=True):
        torch.testing.assert_close(state, point + sigma / 80 * (run.x[0] - point), rtol=0, atol=1e-12)


@every_solver
def test_the_last_evaluation_of_most_solvers_is_the_sample(solver: Solver) -> None:
    """x = D(x; σ) at σ = 0; iPNDM alone steps to 0 by its formula."""
    run = sample_ode(toy_denoiser, solver, 10 * normal(3, 2), [10.0, 2.0, 0.5, 0.0], return_trajectory=True)
    assert torch.equal(run.samples, run.x0[-1]) == (not isinstance(solver, IPNDM))


@every_grid
def test_unipc_integrates_a_quadratic_in_lambda_without_error(grid: Callable[..., Tensor]) -> None:
    """If D depends on λ alone and is a quadratic, the third-order predictor (through three levels) leaves no error."""
    levels = grid(6, 0.1, 3.0)

    def quadratic(x: Tensor, sigma: Tensor) -> Tensor:
        lam = -sigma.log().reshape(-1, 1)
        return (1.0 + 2 * lam - 0.5 * lam**2).expand_as(x)

    def solution(x: Tensor, start: float, end: float) -> Tensor:
        """∫ e^{λ} D dλ by parts: e^λ (D − D' + D'')."""

        def primitive(sigma: float) -> float:
            lam = -math.log(sigma)
            return math.exp(lam) * ((1 + 2 * lam - 0.5 * lam**2) - (2 - lam) - 1.0)

        return end / start * x + end * (primitive(end) - primitive(start))

    run = sample_ode(quadratic, UniPC(), 3 * normal(2, 1), levels, partial=True, return_trajectory=True)
    # Errors of the low-order start are carried on as the linear part is, by σ'/σ; later steps must add none.
    sigmas = run.sigmas.tolist()
    carried = [(run.x[k] - solution(run.x[2], sigmas[2], sigmas[k])) / sigmas[k] for k in (3, 4, 5)]
    torch.testing.assert_close(carried[1], carried[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(carried[2], carried[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("scaled", [True, False])
def test_2m_is_the_formula_of_the_paper(scaled: bool) -> None:
    """Lu et al.'s algorithm 2 in their own variables: α, σ, λ, r, with α = 1 or the variance-preserving α."""
    grid = karras_sigmas(6, 0.1, 10.0)
    alpha = 1 / (1 + grid**2).sqrt() if scaled else torch.ones(6, dtype=torch.float64)
    lam, noise = -grid.log(), alpha * grid
    run = sample_ode(toy_denoiser, DPMSolverPP2M(), 10 * normal(3, 2), grid, partial=True, return_trajectory=True)
    x = alpha[0] * run.x[0]
    for i in range(1, 6):
        h = lam[i] - lam[i - 1]
        data = run.x0[i - 1]
        if i > 1:
            r = (lam[i - 1] - lam[i - 2]) / h
            data = (1 + 1 / (2 * r)) * run.x0[i - 1] - 1 / (2 * r) * run.x0[i - 2]
        x = noise[i] / noise[i - 1] * x - alpha[i] * torch.expm1(-h) * data
        torch.testing.assert_close(x, alpha[i] * run.x[i], rtol=1e-12, atol=1e-12)


# ── against an independent implementation ─────────────────────────────────

AGREE = {
    "karras-8": append_zero(karras_sigmas(8)),
    "log-8": append_zero(log_snr_sigmas(8, 0.01, 20.0)),
    "karras-20": append_zero(karras_sigmas(20)),
}
# Its own grids are made with a conversion that NumPy 2 finds fault with.
inside_diffusers = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
every_run = pytest.mark.parametrize("grid", AGREE.values(), ids=AGREE)
FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}  # where the scheduler computes in float32
FLOAT64 = {"rtol": 1e-10, "atol": 1e-12}


def prepared(scheduler: object, sigmas: Tensor, n_calls: int) -> object:
    """A scheduler of diffusers on our grid, in our precision: its own grids are float32."""
    scheduler.set_timesteps(8)
    scheduler.sigmas = sigmas.clone()
    scheduler.timesteps = torch.arange(n_calls).double()
    return scheduler


def our_states(solver: Solver, grid: Tensor) -> Tensor:
    return sample_ode(toy_denoiser, solver, grid[0] * normal(4, 3), grid, return_trajectory=True).x


def toy_at(x: Tensor, sigma: Tensor) -> Tensor:
    return toy_denoiser(x, sigma.expand(len(x)))


@inside_diffusers
@every_run
def test_euler_runs_as_diffusers(grid: Tensor) -> None:
    diffusers = pytest.importorskip("diffusers")
    ours = our_states(Euler(), grid)
    scheduler, x = prepared(diffusers.EulerDiscreteScheduler(), grid, len(grid) - 1), ours[0]
    for k, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(x, t)
        x = scheduler.step((x - toy_at(x, grid[k])) / grid[k], t, x).prev_sample
        torch.testing.assert_close(x, ours[k + 1], **FLOAT32)


@inside_diffusers
@every_run
def test_heun_runs_as_diffusers(grid: Tensor) -> None:
    diffusers = pytest.importorskip("diffusers")
    ours = our_states(Heun(), grid)
    levels = torch.cat([grid[:1], grid[1:-1].repeat_interleave(2), grid[-1:]])  # it is called at each evaluation
    scheduler, x = prepared(diffusers.HeunDiscreteScheduler(), levels, len(levels) - 1), ours[0]
    states = []
    for k, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(x, t)
        x = scheduler.step((x - toy_at(x, levels[k])) / levels[k], t, x).prev_sample
        states += [x] if k % 2 or k == len(levels) - 2 else []
    torch.testing.assert_close(torch.stack(states), ours[1:], **FLOAT64)


@inside_diffusers
@every_run
@pytest.mark.parametrize("kind", ["2m", "unipc", "unipc-bh1"])
def test_2m_and_unipc_run_as_diffusers(kind: str, grid: Tensor) -> None:
    """Its schedulers live in variance-preserving variables, x_t = x/√(1 + σ²)."""
    diffusers = pytest.importorskip("diffusers")
    ours = our_states(SOLVERS[kind], grid)
    options = {"prediction_type": "sample", "final_sigmas_type": "zero"}
    if kind == "2m":
        scheduler = diffusers.DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", solver_order=2, **options)
    else:
        variant = {"unipc": "bh2", "unipc-bh1": "bh1"}[kind]
        scheduler = diffusers.UniPCMultistepScheduler(solver_order=3, solver_type=variant, **options)
    scheduler = prepared(scheduler, grid, len(grid) - 1)
    scale = 1 / (1 + grid**2).sqrt()
    x = ours[0] * scale[0]
    for k, t in enumerate(scheduler.timesteps):
        x = scheduler.step(toy_at(x / scale[k], grid[k]), t, x).prev_sample
        if kind == "unipc-bh1" and k == len(grid) - 2:
            continue  # its B(h) = −h is infinite in the step to σ = 0, and it gives NaN
        torch.testing.assert_close(x / scale[k + 1], ours[k + 1], **(FLOAT32 if kind == "2m" else FLOAT64))


@inside_diffusers
@every_run
def test_2m_runs_as_the_edm_scheduler_of_diffusers(grid: Tensor) -> None:
    diffusers = pytest.importorskip("diffusers")
    ours = our_states(DPMSolverPP2M(), grid)
    scheduler = prepared(diffusers.EDMDPMSolverMultistepScheduler(solver_order=2), grid, len(grid) - 1)
    x, data = ours[0], scheduler.config.sigma_data
    for k, t in enumerate(scheduler.timesteps):
        total = (grid[k] ** 2 + data**2).sqrt()
        raw = (toy_at(x, grid[k]) - (data / total) ** 2 * x) / (grid[k] * data / total)  # undo its preconditioning
        x = scheduler.step(raw, t, x).prev_sample
        torch.testing.assert_close(x, ours[k + 1], **FLOAT64)


@inside_diffusers
@every_run
def test_ipndm_runs_as_diffusers(grid: Tensor) -> None:
    """It wants a v-prediction, and has α and σ with α² + σ² = 1 as its own grid, which we replace."""
    diffusers = pytest.importorskip("diffusers")
    ours = our_states(IPNDM(), grid)
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(len(grid) - 1)
    scheduler.alphas = 1 / (1 + grid**2).sqrt()
    scheduler.betas = scheduler.alphas * grid
    scheduler.timesteps = torch.arange(len(grid) - 1).double()
    x = ours[0] * scheduler.alphas[0]
    for k, t in enumerate(scheduler.timesteps):
        y = x / scheduler.alphas[k]
        eps = (y - toy_at(y, grid[k])) / grid[k]
        x = scheduler.step((eps - scheduler.betas[k] * x) / scheduler.alphas[k], t, x).prev_sample
        torch.testing.assert_close(x / scheduler.alphas[k + 1], ours[k + 1], **FLOAT64)


@inside_diffusers
def test_churn_runs_as_diffusers() -> None:
    """The same noise from the same seed, drawn once more here, since it asks for ε at the noised state."""
    diffusers = pytest.importorskip("diffusers")
    grid, options = AGREE["karras-8"], {"s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.01}
    churn = Churn(3.0, sigma_min=0.05, sigma_max=50.0, noise=1.01)
    seeds = [torch.Generator().manual_seed(5) for _ in range(3)]
    start = grid[0] * normal(4, 3)
    ours = sample_ode(toy_denoiser, Euler(), start, grid, churn=churn, generator=seeds[0], return_trajectory=True).x
    scheduler, x = prepared(diffusers.EulerDiscreteScheduler(), grid, len(grid) - 1), start
    for k, t in enumerate(scheduler.timesteps):
        noised, raised = x, grid[k]
        if 0.05 <= float(grid[k]) <= 50:
            raised = grid[k] * (1 + 3 / 8)
            fresh = torch.randn(x.shape, generator=seeds[1], dtype=x.dtype)
            noised = x + 1.01 * (raised**2 - grid[k] ** 2).sqrt() * fresh
        scheduler.scale_model_input(x, t)
        eps = (noised - toy_at(noised, raised)) / raised
        x = scheduler.step(eps, t, x, s_churn=3.0, generator=seeds[2], **options).prev_sample
        torch.testing.assert_close(x, ours[k + 1], **FLOAT32)


# ── whole runs ────────────────────────────────────────────────────────────

MIXTURE = GaussianMixture(
    torch.tensor([[-1.5, 0.5], [1.0, -1.0]]),
    torch.tensor([[[0.30, 0.15], [0.15, 0.20]], [[0.10, -0.05], [-0.05, 0.25]]]),
    torch.tensor([0.3, 0.7]),
)


def worst_z_score(samples: Tensor, mixture: GaussianMixture) -> float:
    """Largest deviation of the mean and of the second moments about it, in standard errors."""
    mean = mixture.weights @ mixture.means
    centred = mixture.means - mean
    covariance = (mixture.weights[:, None, None] * mixture.covariances).sum(0)
    covariance = covariance + (mixture.weights[:, None] * centred).T @ centred
    difference = samples - mean
    products = torch.einsum("bi,bj->bij", difference, difference)
    of_mean = difference.mean(0) / (difference.std(0) / math.sqrt(len(samples)))
    of_products = (products.mean(0) - covariance) / (products.std(0) / math.sqrt(len(samples)))
    return float(torch.cat([of_mean, of_products.flatten()]).abs().max())


def test_the_yardstick_passes_true_samples_and_sees_a_bias() -> None:
    samples = MIXTURE.sample(4_000, torch.Generator().manual_seed(0))
    assert worst_z_score(samples, MIXTURE) < 4
    assert worst_z_score(1.2 * samples, MIXTURE) > 12


RUNS = {
    "euler": (Euler(), 250, None),
    "heun": (Heun(), 25, None),
    "2m": (DPMSolverPP2M(), 40, None),
    "ipndm": (IPNDM(), 40, None),
    "unipc": (UniPC(), 20, None),
    "heun-churn": (Heun(), 60, Churn(20.0)),
    "euler-churn": (Euler(), 300, Churn(30.0, 0.01, 20.0)),
}


@pytest.mark.parametrize("name", RUNS)
def test_an_exact_denoiser_gives_the_mixture_back(name: str) -> None:
    solver, n, churn = RUNS[name]
    grid, generator = append_zero(log_snr_sigmas(n)), torch.Generator().manual_seed(1)
    x_T = grid[0] * normal(4_000, 2)
    samples = sample_ode(exact_denoiser(MIXTURE), solver, x_T, grid, churn=churn, generator=generator)
    assert worst_z_score(samples, MIXTURE) < 4.5


@pytest.mark.parametrize("solver", [Euler(), Heun()], ids=["euler", "heun"])
@pytest.mark.parametrize("noise", [1.0, 1.1])
def test_variance_of_churned_runs_on_gaussian_data(solver: Solver, noise: float) -> None:
    """On N(0, s²) a step is x' = k (x + churned noise): the variance of a run, written out, against a measured one."""
    s2, grid, amount, n = 0.25, append_zero(karras_sigmas(6, 0.02, 20.0)).tolist(), 3.0, 100_000
    variance = 400.0
    for sigma, sigma_next in itertools.pairwise(grid):
        raised = sigma * (1 + min(amount / 6, math.sqrt(2) - 1)) if 0.1 <= sigma <= 5 else sigma
        slope = raised / (s2 + raised**2)
        gain = 1 + (sigma_next - raised) * slope
        if isinstance(solver, Heun) and sigma_next > 0:
            slope_next = sigma_next / (s2 + sigma_next**2) * gain
            gain = 1 + (sigma_next - raised) * (slope + slope_next) / 2
        variance = gain**2 * (variance + noise**2 * (raised**2 - sigma**2))
    samples = sample_ode(
        lambda x, sigma: s2 / (s2 + sigma[:, None] ** 2) * x,
        solver,
        20 * normal(n, 1),
        grid,
        churn=Churn(amount, 0.1, 5.0, noise),
        generator=torch.Generator().manual_seed(3),
    )
    assert abs(float(samples.square().mean()) / variance - 1) < 4.5 * math.sqrt(2 / n)


def test_churn_raises_sigma_by_at_most_a_factor_of_root_two() -> None:
    assert Churn(2.0).raised(1.0, 10) == pytest.approx(1.2)
    assert Churn(1e9).raised(3.0, 10) == pytest.approx(3 * math.sqrt(2))
    assert Churn(2.0, 1.0, 5.0).raised(0.99, 10) == 0.99
    assert Churn(2.0, 1.0, 5.0).raised(5.01, 10) == 5.01
    assert Churn(2.0, 1.0, 5.0).raised(1.0, 10) == pytest.approx(1.2)  # both ends belong to it (algorithm 2)
    assert Churn(2.0, 1.0, 5.0).raised(5.0, 10) == pytest.approx(6.0)
    x = normal(2, 3)
    assert Churn(0.0)(x, 1.0, 10)[0] is x


# ── what a run costs and gives ────────────────────────────────────────────


@every_solver
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_evaluations_are_counted(solver: Solver, n: int) -> None:
    spy = Spy()
    run = sample_ode(spy, solver, normal(2, 3), append_zero(karras_sigmas(n)), return_trajectory=True)
    assert isinstance(run, ContinuousTrajectory)
    assert len(spy.sigmas) == run.evaluations == evaluations(solver, n)
    assert evaluations(solver, n) == (2 * n - 1 if isinstance(solver, Heun) else n)


@every_solver
def test_steps_for_a_budget_uses_as_much_of_it_as_it_can(solver: Solver) -> None:
    for budget in range(1, 30):
        n = steps_for(solver, budget)
        assert evaluations(solver, n) <= budget < evaluations(solver, n + 1)
    assert steps_for(Heun(), 10) == 5
    for function in (evaluations, steps_for):
        with pytest.raises(ValueError, match="expected at least one"):
            function(solver, 0)


@every_solver
def test_a_trajectory_holds_every_state(solver: Solver) -> None:
    grid = append_zero(karras_sigmas(5))
    x_T = 80 * normal(2, 3, 4, 4)
    spy = Spy()
    run = sample_ode(spy, solver, x_T, grid, return_trajectory=True)
    assert run.x.shape == (6, 2, 3, 4, 4)
    assert run.x0.shape == (5, 2, 3, 4, 4)
    assert torch.equal(run.x[0], x_T)
    assert torch.equal(run.samples, sample_ode(toy_denoiser, solver, x_T, grid))
    assert torch.equal(run.sigmas, grid)
    assert list(dict.fromkeys(spy.sigmas)) == grid[:-1].tolist()
    for k in range(5):
        expected = toy_denoiser(run.x[k], grid[k].expand(2))
        torch.testing.assert_close(run.x0[k], expected, rtol=1e-12, atol=1e-12)


@every_solver
def test_a_solver_object_can_run_twice_and_interleaved(solver: Solver) -> None:
    """The history belongs to the run: a run inside another one, with the same solver, disturbs neither."""
    grid, x_T = append_zero(karras_sigmas(6)), 80 * normal(2, 3)
    expected = sample_ode(toy_denoiser, solver, x_T, grid)

    def nested(x: Tensor, sigma: Tensor) -> Tensor:
        assert torch.equal(sample_ode(toy_denoiser, solver, x_T, grid), expected)
        return toy_denoiser(x, sigma)

    assert torch.equal(sample_ode(nested, solver, x_T, grid), expected)


@every_solver
def test_the_state_is_float64_and_the_denoiser_keeps_its_dtype(solver: Solver) -> None:
    """With float32 in: the denoiser sees float32, and rounding does not build up over many steps."""
    grid = append_zero(karras_sigmas(400, 0.002, 80.0))
    x_T = (80 * normal(20, 1)).float()
    spy = Spy(of_a_gaussian)
    x = sample_ode(spy, solver, x_T, grid)
    assert x.dtype == torch.float32
    assert spy.dtypes == {torch.float32}
    exact = sample_ode(of_a_gaussian, solver, x_T.double(), grid)
    torch.testing.assert_close(x.double(), exact, rtol=3e-7, atol=3e-7)


def test_labels_reach_the_denoiser() -> None:
    seen = []

    def denoiser(x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        seen.append(label.tolist())
        return label.to(x.dtype)[:, None].expand_as(x)

    x = sample_ode(denoiser, Heun(), normal(3, 2), [1.0, 0.5, 0.0], label=torch.tensor([4, 0, 2]))
    assert seen == [[4, 0, 2]] * 3
    assert x[:, 0].tolist() == [4.0, 0.0, 2.0]


def test_a_run_needs_no_gradient_and_leaves_the_mode_of_modules() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.drop = nn.Linear(2, 2), nn.Dropout(0.5)

        def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
            assert not self.training
            assert not self.drop.training
            return self.drop(self.linear(x))

    net = Net()
    net.linear.eval()
    x = sample_ode(net, UniPC(), torch.ones(3, 2), append_zero(karras_sigmas(4)))
    assert not x.requires_grad
    assert (net.training, net.linear.training, net.drop.training) == (True, False, True)


def test_progress_bar_only_on_request(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    always = functools.partial(tqdm, disable=False)  # tqdm's own default is TQDM_DISABLE, read when it was imported
    monkeypatch.setattr(sys.modules[sample_ode.__module__], "tqdm", always)
    sample_ode(toy_denoiser, Euler(), normal(2, 2), [1.0, 0.0])
    assert capsys.readouterr().err == ""
    sample_ode(toy_denoiser, Euler(), normal(2, 2), [1.0, 0.0], progress=True)
    assert "sampling" in capsys.readouterr().err


# ── wrong input ───────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "grid", [[], [0.0], [1.0], [1.0, 2.0, 0.0], [1.0, 1.0, 0.0], [math.nan, 0.0], [math.inf, 0.0], [[1.0, 0.0]]]
)
def test_grids_must_go_down(grid: list) -> None:
    with pytest.raises(ValueError, match="at least two strictly decreasing noise levels"):
        sample_ode(toy_denoiser, Euler(), normal(2, 2), torch.tensor(grid))


def test_grids_must_reach_zero_unless_a_part_is_asked_for() -> None:
    x_T = normal(2, 2)
    with pytest.raises(ValueError, match=r"end in 0, got 0\.002: use append_zero, or partial=True"):
        sample_ode(toy_denoiser, Euler(), x_T, karras_sigmas(5))
    sample_ode(toy_denoiser, Euler(), x_T, karras_sigmas(5), partial=True)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        sample_ode(toy_denoiser, Euler(), x_T, [1.0, -1.0], partial=True)


def test_images_and_labels_must_fit() -> None:
    grid = [1.0, 0.0]
    with pytest.raises(ValueError, match="floating-point images"):
        sample_ode(toy_denoiser, Euler(), torch.ones(2, 2, dtype=torch.int64), grid)
    for label in (torch.zeros(3, dtype=torch.int64), torch.zeros(2), torch.zeros(2, 1, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"int64 labels of shape \(2,\)"):
            sample_ode(toy_denoiser, Euler(), normal(2, 2), grid, label=label)


@every_solver
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_denoiser_that_breaks_is_named(solver: Solver, wrong: float) -> None:
    def breaks(x: Tensor, sigma: Tensor) -> Tensor:
        guess = toy_denoiser(x, sigma)
        if float(sigma[0]) < 1:
            guess[0, 0] = wrong
        return guess

    with pytest.raises(ValueError, match=r"NaN or infinity at sigma = 0.5 \(evaluation 2\)"):
        sample_ode(breaks, solver, normal(2, 2), [2.0, 0.5, 0.1, 0.0])


def test_a_denoiser_of_another_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 3\), got \(2, 1\)"):
        sample_ode(lambda x, sigma: x[:, :1], Euler(), normal(2, 3), [1.0, 0.0])


def test_churn_and_variants_name_what_they_want() -> None:
    with pytest.raises(ValueError, match="a solver of one step with churn"):
        sample_ode(toy_denoiser, UniPC(), normal(2, 3), [1.0, 0.0], churn=Churn(1.0))
    for wrong, match in (
        ({"amount": -1.0}, "amount of at least 0"),
        ({"amount": math.nan}, "amount of at least 0"),
        ({"amount": 1.0, "sigma_min": 2.0, "sigma_max": 1.0}, "0 <= sigma_min <= sigma_max"),
        ({"amount": 1.0, "noise": 0.0}, "noise > 0"),
    ):
        with pytest.raises(ValueError, match=match):
            Churn(**wrong)
    with pytest.raises(ValueError, match="'bh1' or 'bh2', got 'bh3'"):
        UniPC("bh3")


# ── models of discrete steps as denoisers ─────────────────────────────────

SCHEDULE = LinearSchedule(1000)


@pytest.mark.parametrize("parametrization", ["eps", "x0", "v", "score"])
def test_an_exact_discrete_model_is_the_exact_denoiser_on_the_steps(parametrization: str) -> None:
    eps_model = exact_eps_model(MIXTURE, SCHEDULE)

    def model(x: Tensor, t: Tensor) -> Tensor:
        return convert(eps_model(x, t), x, t, SCHEDULE, "eps", parametrization)

    t = torch.tensor([0, 1, 30, 500, 999])
    sigma = SCHEDULE.sigma(t)
    x = MIXTURE.sample(5, torch.Generator().manual_seed(0)) + sigma[:, None] * normal(5, 2)
    denoiser = as_denoiser(model, SCHEDULE, parametrization, round_t=True)
    assert torch.equal(denoiser.time(sigma), t)
    torch.testing.assert_close(denoiser(x, sigma), exact_denoiser(MIXTURE)(x, sigma), rtol=1e-8, atol=1e-8)


def network(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(0.7 * x + 0.002 * t.to(x.dtype)[:, None])


def test_time_is_continuous_between_the_steps() -> None:
    denoiser = as_denoiser(network, SCHEDULE)
    pair = SCHEDULE.sigma(torch.tensor([600, 601]))
    middle = pair.log().mean().exp()
    assert float(denoiser.time(middle)) == pytest.approx(600.5, abs=1e-8)
    x = 5 * normal(1, 3)
    torch.testing.assert_close(
        denoiser(x, middle[None]),
        x - middle * network(x / (1 + middle**2).sqrt(), torch.tensor([600.5], dtype=torch.float64)),
        rtol=1e-8,
        atol=1e-8,
    )
    nearest = as_denoiser(lambda x, t: t.to(x.dtype)[:, None].expand_as(x), SCHEDULE, "x0", round_t=True)
    sigma = pair[:1] * 0.2 + pair[1:] * 0.8
    assert float(nearest(torch.zeros(1, 1, dtype=torch.float64), sigma)) == 601 * 1.0


def test_outside_of_the_schedule_time_stays_at_its_ends() -> None:
    denoiser = as_denoiser(network, SCHEDULE)
    assert denoiser.time(torch.tensor([1e-5, 1e5])).tolist() == [0.0, 999.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtypes_of_a_discrete_denoiser(dtype: torch.dtype) -> None:
    """Images keep their dtype; time is at least float32."""
    seen = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append((x.dtype, t.dtype))
        return 0 * x

    x = torch.ones(2, 3, dtype=dtype)
    assert as_denoiser(model, SCHEDULE)(x, torch.ones(2, dtype=dtype)).dtype == dtype
    assert seen == [(dtype, torch.float64 if dtype == torch.float64 else torch.float32)]


def test_labels_reach_a_discrete_model_and_shapes_are_checked() -> None:
    denoiser = as_denoiser(lambda x, t, label: label.to(x.dtype)[:, None].expand_as(x), SCHEDULE, "x0")
    assert denoiser(torch.zeros(2, 1), torch.ones(2), torch.tensor([3, 4])).tolist() == [[3.0], [4.0]]
    with pytest.raises(ValueError, match="expected a parametrization out of"):
        as_denoiser(network, SCHEDULE, "noise")
    with pytest.raises(ValueError, match="shape"):
        as_denoiser(lambda x, t: x[:, :1], SCHEDULE)(torch.zeros(2, 3), torch.ones(2))


def test_euler_on_a_discrete_model_is_ddim() -> None:
    """The same network, on the same steps: x_t = √ᾱ x."""
    sampler = DDIMSampler(SCHEDULE, 12)
    x_T = normal(4, 3)
    grid = SCHEDULE.sigma(torch.tensor((*sampler.timesteps, -1)))
    start = x_T / SCHEDULE.alpha_bar(999).sqrt()
    x = sample_ode(as_denoiser(network, SCHEDULE), Euler(), start, grid)
    torch.testing.assert_close(x, sample(network, sampler, x_T), rtol=1e-8, atol=1e-8)


def test_a_discrete_denoiser_can_clip() -> None:
    """Near the start of the schedule an error of ε̂ enters D a hundredfold."""
    x, sigma = 100 * normal(5, 3), torch.full((5,), 100.0, dtype=torch.float64)
    guess = as_denoiser(network, SCHEDULE)(x, sigma)
    assert float(guess.abs().max()) > 10
    assert torch.equal(as_denoiser(network, SCHEDULE, clip_x0=2.0)(x, sigma), guess.clamp(-2, 2))
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="clip_x0 > 0"):
            as_denoiser(network, SCHEDULE, clip_x0=wrong)


def test_the_shipped_ddpm_runs_with_few_steps() -> None:
    """Its ODE is solved better by solvers of higher order than by Euler (DDIM) with the same 12 evaluations."""
    schedule = zoo.schedule_of(zoo.card("digits-ddpm"))
    denoiser = as_denoiser(zoo.load("digits-ddpm"), schedule, clip_x0=1.0)
    ends = [float(schedule.sigma(t)) for t in (0, schedule.n_steps - 1)]
    x_T = ends[1] * torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    reference = sample_ode(denoiser, Heun(), x_T, append_zero(log_snr_sigmas(40, *ends)))
    grid = append_zero(log_snr_sigmas(12, *ends))
    error = {
        name: float((sample_ode(denoiser, SOLVERS[name], x_T, grid) - reference).square().mean().sqrt())
        for name in ("euler", "2m", "unipc")
    }
    assert error["2m"] < 0.6 * error["euler"]
    assert error["unipc"] < 0.6 * error["euler"]
