"""helpers.energy and the energy networks: scores by finite differences, compositions by densities, denoisers by EDM."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from helpers.diffusion import EDMPrecond, edm_loss
from helpers.energy import (
    AtLevel,
    ClassifierEnergy,
    GradientField,
    InnerProductEnergy,
    Mixture,
    NonFiniteEnergyError,
    Sum,
    Tempered,
    energy_and_gradient,
    frozen,
    score,
)
from helpers.nn import EnergyCNN, EnergyMLP, FastUNet, SimpleUNet, TimeMLP
from helpers.oracle import GaussianMixture, exact_denoiser
from helpers.samplers import Heun, sample_ode
from helpers.schedules import append_zero, karras_sigmas


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _filled(module: nn.Module, seed: int = 0, scale: float = 1.0) -> nn.Module:
    """In float64, with random numbers in place of zeros and ones, so that no part is silent."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    for parameter in module.parameters():
        size = scale / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 else 0.3
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = size * noise + float(bool((parameter == 1).all()))
    return module


def _levels(x: Tensor, sigma: float) -> Tensor:
    return x.new_full(x.shape[:1], sigma)


def _gaussian(mean: list[float], variance: float) -> GaussianMixture:
    return GaussianMixture(torch.tensor([mean], dtype=torch.float64), variance)


def _parabola(x: Tensor) -> Tensor:
    return x.square().flatten(1).sum(1) / 2


class Linear(nn.Module):
    """u ↦ A u on flattened vectors, at every noise level."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, u: Tensor, c_noise: Tensor) -> Tensor:
        return (u.flatten(1) @ self.matrix.T).reshape(u.shape)


class Homogeneous(nn.Module):
    """The gradient of Σ_i w_i |u_i|^{k+1}/(k+1): a gradient field of degree k."""

    def __init__(self, degree: float) -> None:
        super().__init__()
        self.degree = degree

    def forward(self, u: Tensor, c_noise: Tensor) -> Tensor:
        return torch.linspace(0.5, 2, u.shape[1], dtype=u.dtype) * u.sign() * u.abs() ** self.degree


def _symmetric(dim: int, seed: int = 3) -> Tensor:
    matrix = _randn(dim, dim, seed=seed)
    return (matrix + matrix.T) / 2


def _unets() -> dict[str, InnerProductEnergy]:
    fast = FastUNet(n_classes=3, channels=(64, 64), emb_channels=16, blocks=(1, 1, 1, 1))
    return {
        "points": InnerProductEnergy(_filled(TimeMLP(3, 16, 2)), 0.8),
        "assignment": InnerProductEnergy(_filled(SimpleUNet(1, 1, time_emb_dim=8, base_channels=8)), 0.5),
        "fast": InnerProductEnergy(_filled(fast), 0.5),
    }


UNETS = _unets()
POINTS = {"points": (4, 3), "assignment": (2, 1, 8, 8), "fast": (2, 3, 8, 8)}
every_unet = pytest.mark.parametrize("name", UNETS)


# ── scores ────────────────────────────────────────────────────────────────


def _assert_derivative(function: Callable[[Tensor], Tensor], gradient: Tensor, x: Tensor) -> None:
    """Central differences along a random direction.

    h = 1e-6 leaves h² times the third derivative, and the rounding of E, 1e-16 E/h; and meets no kink of a ReLU here.
    """
    direction = _randn(*x.shape, seed=100)
    step = 1e-6 * direction
    with torch.no_grad():
        difference = (function(x + step) - function(x - step)) / 2e-6
    torch.testing.assert_close((gradient * direction).flatten(1).sum(1), difference, rtol=1e-6, atol=1e-6)


ENERGIES: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "mlp": (_filled(EnergyMLP(3, 16, 2)), (5, 3)),
    "cnn": (_filled(EnergyCNN(2, size=8, width=4)), (3, 2, 8, 8)),
    "classifier": (ClassifierEnergy(_filled(nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 4)))), (5, 3)),
    "sum": (Sum([_filled(EnergyMLP(3, 8, 1)), _parabola], [-0.5, 2.0]), (5, 3)),
    "mixture": (Mixture([_filled(EnergyMLP(3, 8, 1)), _parabola], [0.3, -1.0]), (5, 3)),
    "tempered": (Tempered(_filled(EnergyMLP(3, 8, 1)), 0.2), (5, 3)),
    "oracle": (_gaussian([0.3, -0.2], 0.5).energy, (5, 2)),
    **{f"inner product, {name}": (AtLevel(energy, 0.7), POINTS[name]) for name, energy in UNETS.items()},
    "inner product with a class": (AtLevel(UNETS["fast"], 0.7, label=1), (2, 3, 8, 8)),
}


@pytest.mark.parametrize("name", ENERGIES)
def test_score_is_minus_the_slope(name: str) -> None:
    energy, shape = ENERGIES[name]
    x = _randn(*shape)
    _assert_derivative(energy, -score(energy, x), x)
    with pytest.raises(AssertionError):  # what a wrong sign would give
        _assert_derivative(energy, score(energy, x), x)


def test_score_of_a_density_is_the_exact_one() -> None:
    mixture = GaussianMixture(torch.tensor([[-1.0, 0.4], [0.7, 0.1]]), 0.3, torch.tensor([1.0, 2.0]))
    x = _randn(20, 2)
    torch.testing.assert_close(score(mixture.energy, x), mixture.score(x), rtol=1e-12, atol=1e-12)
    value, gradient = energy_and_gradient(mixture.energy, x)
    torch.testing.assert_close(value, -mixture.log_prob(x))
    torch.testing.assert_close(gradient, -mixture.score(x))


def test_a_constant_in_the_energy_is_not_in_the_score() -> None:
    energy, x = _filled(EnergyMLP(3, 16, 2)), _randn(5, 3)
    torch.testing.assert_close(score(lambda x: energy(x) + 1000, x), score(energy, x), rtol=0, atol=0)


def test_score_leaves_no_traces() -> None:
    energy, x = EnergyMLP(2, 8, 1), torch.zeros(3, 2)
    with torch.no_grad():  # and needs no gradients to be enabled
        found = score(energy, x)
    assert not found.requires_grad
    assert not energy_and_gradient(energy, x)[0].requires_grad
    assert not x.requires_grad
    assert all(p.grad is None and p.requires_grad for p in energy.parameters())
    watched = torch.zeros(3, 2, requires_grad=True)
    assert not score(energy, watched).requires_grad
    assert watched.grad is None


def test_a_score_with_a_graph_trains_parameters() -> None:
    energy, x = _filled(EnergyMLP(2, 8, 1)), _randn(6, 2)
    weight = energy.net[0].weight

    def loss() -> Tensor:
        return score(energy, x, create_graph=True).square().sum()

    (by_autograd,) = torch.autograd.grad(loss(), weight)
    shift = 1e-5 * _randn(*weight.shape, seed=9)
    ends = []
    for sign in (1, -1):
        weight.data += sign * shift
        ends.append(loss().item())
        weight.data -= sign * shift
    assert (by_autograd * shift).sum().item() * 2 == pytest.approx(ends[0] - ends[1], rel=1e-5)


def test_a_score_with_a_graph_can_be_differentiated_by_x() -> None:
    x = _randn(4, 3).requires_grad_()
    matrix = _symmetric(3)
    found = score(lambda x: torch.einsum("bi,ij,bj->b", x, matrix, x) / 2, x, create_graph=True)
    (product,) = torch.autograd.grad(found, x, torch.ones_like(found))
    torch.testing.assert_close(product, -matrix.sum(0).expand(4, 3))


@pytest.mark.parametrize(
    ("energy", "x", "error", "words"),
    [
        (lambda x: x.square().sum(1, keepdim=True), torch.ones(3, 2), ValueError, "squeeze the last axis"),
        (lambda x: x.square().sum(), torch.ones(3, 2), ValueError, r"shape \(3,\), got \(\)"),
        (lambda x: x.detach().square().sum(1), torch.ones(3, 2), ValueError, "depends on x"),
        (lambda x: torch.zeros(3), torch.ones(3, 2), ValueError, "depends on x"),
        (lambda x: torch.zeros(3, requires_grad=True) + 1, torch.ones(3, 2), ValueError, "depends on x"),
        (lambda x: x.log().sum(1), -torch.ones(3, 2), NonFiniteEnergyError, "3 of 3"),
        (lambda x: x.sqrt().sum(1), torch.tensor([[1.0], [0.0]]), NonFiniteEnergyError, "1 of 2"),  # slope only
        (lambda x: 1.0, torch.ones(3, 2), TypeError, "got float"),
        (_parabola, torch.ones(3, 2, dtype=torch.int64), TypeError, "floating-point"),
        (_parabola, torch.ones(3), ValueError, r"shape \(B, ...\)"),
    ],
)
def test_mistakes_in_energies_are_named(energy: object, x: Tensor, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        score(energy, x)


def test_which_samples_are_not_finite_can_be_asked() -> None:
    with pytest.raises(NonFiniteEnergyError) as caught:
        score(lambda x: x.log().sum(1), torch.tensor([[1.0], [-1.0], [2.0]]))
    assert caught.value.bad.tolist() == [False, True, False]
    value, _ = energy_and_gradient(lambda x: x.log().sum(1), -torch.ones(2, 1), check_finite=False)
    assert value.isnan().all()


def test_inference_mode_is_named_as_the_reason() -> None:
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"no_grad\(\) instead"):
        score(_parabola, torch.ones(2, 2))


# ── holding a network still ───────────────────────────────────────────────


def _state(module: nn.Module) -> tuple[list[bool], list[bool]]:
    return [p.requires_grad for p in module.parameters()], [part.training for part in module.modules()]


def _mixed() -> nn.Module:
    """Some parameters are frozen already, some parts are in evaluation mode."""
    module = nn.Sequential(nn.Linear(2, 4), nn.Dropout(), nn.Linear(4, 1)).train()
    module[0].weight.requires_grad_(False)
    module[2].eval()
    return module


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: m.forward, lambda m: Sum([Tempered(m, 2.0), _parabola])])
@pytest.mark.parametrize("fails", [False, True])
def test_frozen_puts_everything_back(wrap: Callable[[nn.Module], object], fails: bool) -> None:
    module = _mixed()
    energy, before = wrap(module), _state(module)
    try:
        with frozen(energy):
            assert _state(module) == ([False] * 4, [False] * 4)
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert _state(module) == before


def test_frozen_leaves_functions_alone() -> None:
    with frozen(_parabola), frozen(None):
        pass


# ── compositions ──────────────────────────────────────────────────────────


def test_a_sum_is_a_product_of_densities() -> None:
    """N(a, s²) N(b, t²) is a Gaussian of precision 1/s² + 1/t² and precision-weighted mean, up to a constant."""
    one, two = _gaussian([1.0, 0.0], 0.5), _gaussian([0.0, 2.0], 0.25)
    product = _gaussian([2.0 / 6.0, 8.0 / 6.0], 1 / 6)
    x = _randn(30, 2)
    difference = Sum([one.energy, two.energy])(x) - product.energy(x)
    torch.testing.assert_close(difference, difference[:1].expand(30), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(score(Sum([one.energy, two.energy]), x), product.score(x))


def test_weights_are_powers() -> None:
    """N(0, s²)² / N(0, t²): precision 2/s² − 1/t²."""
    x = _randn(30, 2)
    quotient = Sum([_gaussian([0.0, 0.0], 0.5).energy, _gaussian([0.0, 0.0], 0.8).energy], [2.0, -1.0])
    torch.testing.assert_close(score(quotient, x), -(4 - 1.25) * x)


def test_a_mixture_of_densities_is_their_mixture() -> None:
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    means = [[0.0, 1.0], [-1.0, 0.5], [2.0, -1.0]]
    exact = GaussianMixture(torch.tensor(means), 0.3, weights)
    x = _randn(30, 2)
    parts = [_gaussian(mean, 0.3).energy for mean in means]
    torch.testing.assert_close(Mixture(parts, weights.log())(x), exact.energy(x))
    equal = GaussianMixture(torch.tensor(means), 0.3)
    torch.testing.assert_close(Mixture(parts)(x), equal.energy(x))


@pytest.mark.parametrize("temperature", [0.1, 1.0, 7.0])
def test_tempering_a_gaussian_multiplies_its_variance(temperature: float) -> None:
    x = _randn(30, 2)
    tempered = Tempered(_gaussian([0.5, 0.0], 0.3).energy, temperature)
    torch.testing.assert_close(score(tempered, x), _gaussian([0.5, 0.0], 0.3 * temperature).score(x))


def test_smoothing_and_multiplying_do_not_commute() -> None:
    """Oracle 10: two N(0, 1), smoothed by σ = 1: 1.5 if multiplied before, 1.0 if after."""

    def smoothed(x: Tensor, sigma: Tensor) -> Tensor:
        """−log of N(0, 1 + σ²), the energy of N(0, 1) at noise level σ."""
        return (x.square() / (2 * (1 + sigma[:, None] ** 2))).sum(1)

    x = _randn(10, 1)
    product_of_smoothed = Sum([smoothed, smoothed])
    torch.testing.assert_close(score(product_of_smoothed, x, _levels(x, 1.0)), -x / 1.0)
    product = _gaussian([0.0], 0.5)  # N(0, 1)², the clean product
    torch.testing.assert_close(score(product_of_smoothed, x, _levels(x, 0.0)), product.score(x))
    smoothed_product = _gaussian([0.0], 0.5 + 1.0)
    alpha_bar = 1 / (1 + 1.0**2)  # the same, by the mixture's own noising
    torch.testing.assert_close(product.score(x * alpha_bar**0.5, alpha_bar) * alpha_bar**0.5, smoothed_product.score(x))
    torch.testing.assert_close(smoothed_product.score(x), -x / 1.5)


def test_compositions_pass_conditions_on_and_own_their_parameters() -> None:
    inner, x = UNETS["fast"], _randn(2, 3, 8, 8)
    sigma, label = torch.tensor([0.3, 2.0], dtype=torch.float64), torch.tensor([2, 0])
    nested = Tempered(Mixture([Sum([inner, inner], [0.5, 1.5])], [0.0]), 2.0)
    torch.testing.assert_close(nested(x, sigma, label), inner(x, sigma, label))
    assert {id(p) for p in nested.parameters()} == {id(p) for p in inner.parameters()}


def test_at_level_is_the_energy_at_that_level() -> None:
    inner, x = UNETS["fast"], _randn(2, 3, 8, 8)
    torch.testing.assert_close(AtLevel(inner, 0.4)(x), inner(x, _levels(x, 0.4)))
    label = torch.tensor([1, 1])
    torch.testing.assert_close(AtLevel(inner, 0.4, label=1)(x), inner(x, _levels(x, 0.4), label))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Sum([]), ValueError, "at least one"),
        (lambda: Sum([_parabola, 3.0]), TypeError, "can be called, got float"),
        (lambda: Sum([_parabola], [1.0, 2.0]), ValueError, "1 finite weights"),
        (lambda: Mixture([_parabola], [math.inf]), ValueError, "1 finite log_weights"),
        (lambda: Tempered(_parabola, 0.0), ValueError, "temperature > 0"),
        (lambda: AtLevel(_parabola, -1.0), ValueError, "noise level > 0"),
        (lambda: Sum([_parabola, lambda x: x])(torch.ones(3, 2)), ValueError, "from number 1"),
    ],
)
def test_mistakes_in_compositions_are_named(make: Callable, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


# ── a denoiser as an energy ───────────────────────────────────────────────


@every_unet
@pytest.mark.parametrize("sigma", [0.01, 0.5, 20.0])
def test_the_denoiser_is_tweedies_formula_of_the_energy(name: str, sigma: float) -> None:
    """D = x − σ²∇E, with ∇E by autograd through the energy itself, and the score −∇E."""
    energy, x = UNETS[name], (1 + sigma) * _randn(*POINTS[name])
    levels = _levels(x, sigma)
    gradient = energy_and_gradient(energy, x, levels)[1]
    torch.testing.assert_close(energy.denoise(x, levels), x - sigma**2 * gradient, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(energy.denoiser(x, levels), energy.denoise(x, levels))
    torch.testing.assert_close(energy.score(x, levels), -gradient, rtol=1e-9, atol=1e-9 / sigma)


@pytest.mark.parametrize("sigma", [0.002, 0.5, 80.0])
@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
def test_linear_symmetric_networks_lose_nothing(sigma: float, sigma_data: float) -> None:
    """Where N is the gradient of its own ½⟨u, N⟩, the energy's denoiser is the plain one around N."""
    network, x = Linear(_symmetric(12)), sigma * _randn(5, 3, 2, 2)
    energy, plain = InnerProductEnergy(network, sigma_data), EDMPrecond(network, sigma_data)
    torch.testing.assert_close(energy.denoise(x, _levels(x, sigma)), plain(x, sigma), rtol=1e-10, atol=1e-12)


def test_of_a_network_that_is_no_gradient_the_symmetric_part_stays() -> None:
    matrix, u = _randn(4, 4), _randn(5, 4)
    field = GradientField(Linear(matrix))(u, u.new_zeros(5))
    torch.testing.assert_close(field, u @ (matrix + matrix.T) / 2)


@pytest.mark.parametrize("degree", [1.0, 2.0, 3.0])
def test_eulers_factor(degree: float) -> None:
    """½(N + Jᵀu) = (k + 1)/2 · N for a gradient field of degree k."""
    network, u = Homogeneous(degree), _randn(6, 3)
    field = GradientField(network)(u, u.new_zeros(6))
    torch.testing.assert_close(field, (degree + 1) / 2 * network(u, u))


@pytest.mark.parametrize("sigma", [0.05, 0.5, 5.0])
def test_gaussian_data_have_an_exact_energy(sigma: float) -> None:
    """For N(0, s²) the best F is linear, and with it E is −log N(0, s² + σ²), its temperature included."""
    s, sigma_data = 0.8, 0.5
    c = EDMPrecond(nn.Identity(), sigma_data).coefficients(torch.tensor(sigma, dtype=torch.float64))
    slope = (s**2 / (s**2 + sigma**2) - c.skip) / (c.out * c.input)
    energy = InnerProductEnergy(Linear(slope * torch.eye(3, dtype=torch.float64)), sigma_data)
    x = 2 * _randn(7, 3)
    exact = _gaussian([0.0, 0.0, 0.0], s**2 + sigma**2)
    found = energy(x, _levels(x, sigma)) - exact.energy(x)
    torch.testing.assert_close(found, found[:1].expand(7), rtol=1e-10, atol=1e-10)
    mean = exact_denoiser(_gaussian([0.0, 0.0, 0.0], s**2))(x, _levels(x, sigma))
    torch.testing.assert_close(energy.denoise(x, _levels(x, sigma)), mean)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 10.0])
def test_an_untrained_energy_has_the_loss_one(sigma: float) -> None:
    """The target has variance 1 at every σ; of n squared normal numbers the mean has standard error √(2/n)."""
    n = 100_000
    energy = InnerProductEnergy(Linear(torch.zeros(1, 1, dtype=torch.float64)), 0.5)
    x_0 = 0.5 * _randn(n, 1)
    loss = edm_loss(energy.denoiser, x_0, torch.Generator().manual_seed(1), sigma=_levels(x_0, sigma))
    assert loss.item() == pytest.approx(1, abs=4 * math.sqrt(2 / n))


def _denoiser_jacobian(denoiser: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: float) -> Tensor:
    return torch.autograd.functional.jacobian(lambda x: denoiser(x, _levels(x, sigma))[0], x)[:, 0]


def test_the_energys_denoiser_has_no_curl_and_a_plain_one_has() -> None:
    energy, x = UNETS["points"], _randn(1, 3)
    plain = EDMPrecond(energy.denoiser.network.network, energy.sigma_data)
    jacobian = _denoiser_jacobian(energy.denoiser, x, 0.5)
    torch.testing.assert_close(jacobian, jacobian.T, rtol=1e-10, atol=1e-12)
    other = _denoiser_jacobian(plain, x, 0.5)
    assert (other - other.T).norm() > 0.02 * other.norm()


def test_training_the_denoiser_trains_the_network() -> None:
    energy = InnerProductEnergy(_filled(TimeMLP(3, 8, 1)), 0.5)
    weight, x_0 = energy.denoiser.network.network.net[0].weight, _randn(16, 3)

    def loss() -> Tensor:
        return edm_loss(energy.denoiser, x_0, torch.Generator().manual_seed(4))

    (by_autograd,) = torch.autograd.grad(loss(), weight)
    shift = 1e-5 * _randn(*weight.shape, seed=9)
    ends = []
    for sign in (1, -1):
        weight.data += sign * shift
        ends.append(loss().item())
        weight.data -= sign * shift
    assert (by_autograd * shift).sum().item() * 2 == pytest.approx(ends[0] - ends[1], rel=1e-5)


def test_a_denoiser_outside_of_training_holds_no_graph() -> None:
    energy, x = InnerProductEnergy(_filled(TimeMLP(3, 8, 1)), 0.5), _randn(4, 3)
    with torch.no_grad():
        assert not energy.denoise(x, _levels(x, 1.0)).requires_grad
        assert not energy.denoiser.network(x, _levels(x, 1.0)).requires_grad  # nor one that is thrown away
    with frozen(energy):
        assert not energy.denoise(x, _levels(x, 1.0)).requires_grad
    assert energy.denoise(x, _levels(x, 1.0)).requires_grad
    assert all(p.grad is None for p in energy.parameters())


def test_solvers_take_the_energys_denoiser() -> None:
    """On Gaussian data the ODE multiplies x by √(s²/(s² + σ²)); Heun's error on this grid is below 1 %."""
    s = sigma_data = 0.5  # then F = 0 is the best there is
    energy = InnerProductEnergy(Linear(torch.zeros(2, 2)), sigma_data)
    sigmas = append_zero(karras_sigmas(40, 0.002, 10.0))
    x_T = 10 * torch.ones(3, 2)
    x_0 = sample_ode(energy.denoiser, Heun(), x_T, sigmas)
    torch.testing.assert_close(x_0.double(), x_T.double() * s / math.hypot(s, 10), rtol=0.01, atol=0)


def test_mistakes_around_networks_are_named() -> None:
    energy, x = UNETS["points"], _randn(4, 3)
    with pytest.raises(ValueError, match="one noise level per sample"):
        energy(x, torch.ones(3))
    with pytest.raises(ValueError, match="network's answer of shape"):
        InnerProductEnergy(_filled(SimpleUNet(1, 2, 8, 8)))(_randn(2, 1, 8, 8), torch.ones(2))
    with pytest.raises(ValueError, match="sigma_data > 0"):
        InnerProductEnergy(nn.Identity(), 0.0)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="no_grad"):
        energy.denoise(torch.ones(2, 3), torch.ones(2))


# ── a classifier as an energy ─────────────────────────────────────────────


def test_a_classifiers_energies_give_its_probabilities_back() -> None:
    """E(x, y) − E(x) = −log p(y|x), and E(x) is the mixture of the E(x, y)."""
    classifier = _filled(nn.Linear(3, 5))
    energy, x = ClassifierEnergy(classifier), _randn(6, 3)
    log_p = classifier(x).log_softmax(1)
    for label in range(5):
        given = torch.full((6,), label)
        torch.testing.assert_close(energy(x) - energy(x, given), log_p[:, label])

    def of_class(y: int) -> Callable[[Tensor], Tensor]:
        return lambda x: energy(x, torch.full(x.shape[:1], y))

    torch.testing.assert_close(Mixture([of_class(y) for y in range(5)], [0.0] * 5)(x), energy(x))


def test_mistakes_around_classifiers_are_named() -> None:
    with pytest.raises(ValueError, match=r"logits of shape \(2, K\)"):
        ClassifierEnergy(nn.Flatten(0))(torch.ones(2, 3))
    with pytest.raises(ValueError, match="one label per sample"):
        ClassifierEnergy(nn.Linear(3, 2))(torch.ones(2, 3), torch.zeros(3, dtype=torch.int64))


# ── energy networks ───────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (EnergyMLP(), (5, 2)),
        (EnergyMLP(7, 16, 1), (5, 7)),
        (EnergyCNN(), (5, 3, 32, 32)),
        (EnergyCNN(1, size=8, width=8), (5, 1, 8, 8)),
        (EnergyCNN(1, size=4, width=8), (5, 1, 4, 4)),
    ],
)
def test_energy_networks_give_one_number_for_each_sample_alone(network: nn.Module, shape: tuple[int, ...]) -> None:
    network, x = _filled(network).train(), _randn(*shape)
    values = network(x)
    assert values.shape == (5,)
    assert values.std() > 0
    torch.testing.assert_close(network(x[2:3]), values[2:3])  # whoever its neighbours are, also in training mode
    torch.testing.assert_close(network(x), values, rtol=0, atol=0)
    kinds = (nn.modules.batchnorm._BatchNorm, nn.Dropout, nn.ReLU)
    assert not [part for part in network.modules() if isinstance(part, kinds)]


def test_the_convolutional_energy_is_cheap() -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        EnergyCNN()(torch.zeros(1, 3, 32, 32))
    by_hand = 2 * (1024 * 27 * 32 + 16 * (256 * 32 * 64 + 64 * 64 * 128 + 16 * 128 * 256) + 16 * 256)
    assert counter.get_total_flops() == by_hand
    assert by_hand < 0.06e9


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: EnergyMLP(0), "dim, width and depth"),
        (lambda: EnergyMLP(2)(torch.zeros(3, 4)), r"points of shape \(B, 2\)"),
        (lambda: EnergyCNN(3, size=12), "4 times a power of two"),
        (lambda: EnergyCNN(3, size=2), "4 times a power of two"),
        (lambda: EnergyCNN(0), "in_channels and width"),
        (lambda: EnergyCNN(3)(torch.zeros(1, 3, 16, 16)), r"images of shape \(B, 3, 32, 32\)"),
    ],
)
def test_mistakes_with_energy_networks_are_named(make: Callable, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_autocast_does_not_keep_every_state_of_a_chain() -> None:
    """It caches its bfloat16 copies of leaves that require gradients until it ends: gigabytes, in a long chain."""
    network, seen = nn.Linear(4, 1).requires_grad_(False), []

    def energy(x: Tensor) -> Tensor:
        seen.append(weakref.ref(x))
        return network(x).squeeze(1).float()

    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(3):
            score(energy, torch.randn(2, 4))
        gc.collect()
        assert [state() for state in seen] == [None] * 3
