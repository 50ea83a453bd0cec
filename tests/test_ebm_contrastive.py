"""helpers.ebm.contrastive: signs, what gets gradients, what the chains remember, and the exact biased fixed points."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.ebm import (
    ContrastiveDivergence,
    DataChains,
    LangevinSampler,
    PersistentChains,
    ShortRun,
    contrastive_divergence_loss,
    kl_quadrature,
)
from helpers.energy import NonFiniteEnergyError
from helpers.langevin import ReplayBuffer, TemperatureWarning, mala
from helpers.nn import EnergyMLP
from helpers.oracle import (
    Grid,
    eight_gaussians,
    grid_nll_gradient,
    persistent_fixed_point,
    short_run_fixed_point,
    short_run_variance,
    ula_variance,
)
from helpers.training import Run, TrainingConfig, train


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _randn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=_generator(seed), dtype=torch.float64)


def _normal(n: int, generator: torch.Generator | None) -> Tensor:
    return torch.randn(n, 2, generator=generator, dtype=torch.float64)


def _network(seed: int = 0) -> EnergyMLP:
    model = EnergyMLP(2, 16, 2).double()
    generator = _generator(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return model


class Parabola(nn.Module):
    """E = ½ a ‖x‖²."""

    def __init__(self, a: float = 1.0) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x.square().flatten(1).sum(1) / 2


# ── the loss ──────────────────────────────────────────────────────────────


def test_data_go_down_and_samples_go_up() -> None:
    model, data, samples = Parabola(), _randn(5, 2), 2 * _randn(7, 2, seed=2)
    loss = contrastive_divergence_loss(model, data, samples)
    loss.backward()
    expected = (data.square().sum(1).mean() - samples.square().sum(1).mean()) / 2
    torch.testing.assert_close(loss.detach(), expected)
    torch.testing.assert_close(model.a.grad, expected)  # samples too wide: the descent raises a, and pulls them in
    assert expected < 0


def test_it_estimates_the_gradient_of_the_likelihood() -> None:
    """Exact samples of data and model on a grid: its gradient is that of oracle 4 within 4 standard errors each."""
    model, points, n = _network(), Grid(-2.5, 2.5, 15).points, 20_000
    parameters = list(model.parameters())[:-1]  # a constant added to E changes nothing
    p = eight_gaussians(1.5, 0.4).log_prob(points).softmax(0)
    q = (-model(points).detach()).softmax(0)
    exact = torch.cat([g.flatten() for g in grid_nll_gradient(model, parameters, points, p)])
    each = torch.stack(
        [torch.cat([g.flatten() for g in torch.autograd.grad(e, parameters, retain_graph=True)]) for e in model(points)]
    )

    def variance(weights: Tensor) -> Tensor:
        return weights @ each.square() - (weights @ each) ** 2

    standard_error = ((variance(p) + variance(q)) / n).sqrt()
    draw = [points[torch.multinomial(w, n, replacement=True, generator=_generator(i))] for i, w in enumerate((p, q))]
    loss = contrastive_divergence_loss(model, *draw)
    estimate = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
    assert bool(((estimate - exact).abs() < 4.5 * standard_error + 1e-12).all())
    largest = exact.abs().argmax()
    assert exact[largest].abs() > 16 * standard_error[largest]  # a flipped sign is far outside


def test_a_constant_added_to_the_energy_costs_only_the_l2_term() -> None:
    model, data, samples = Parabola(), _randn(5, 2), _randn(7, 2, seed=2)
    shifted = lambda x: model(x) + 10.0  # noqa: E731
    plain = contrastive_divergence_loss(model, data, samples)
    torch.testing.assert_close(contrastive_divergence_loss(shifted, data, samples), plain)
    penalty = model(data).square().mean() + model(samples).square().mean()
    torch.testing.assert_close(contrastive_divergence_loss(model, data, samples, l2=0.1), plain + 0.1 * penalty)
    assert contrastive_divergence_loss(shifted, data, samples, l2=0.1) > plain + 10


def test_l2_brings_drifting_energies_back() -> None:
    """Where data and samples agree, only the penalty pulls on a constant: towards 0."""
    offset = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    x = _randn(64, 2)
    energy = lambda y: y.square().sum(1) / 2 + offset  # noqa: E731
    assert torch.autograd.grad(contrastive_divergence_loss(energy, x, x), offset)[0].abs() < 1e-12
    (slope,) = torch.autograd.grad(contrastive_divergence_loss(energy, x, x, l2=0.01), offset)
    torch.testing.assert_close(slope, 0.04 * energy(x).mean().detach())


def test_energies_in_bfloat16_are_subtracted_in_float32() -> None:
    energy = lambda x: x.square().sum(1).bfloat16()  # noqa: E731
    assert contrastive_divergence_loss(energy, torch.ones(4, 2), torch.zeros(4, 2)).dtype == torch.float32


def test_mistakes_are_named() -> None:
    model, x = Parabola(), _randn(4, 2)
    with pytest.raises(ValueError, match="l2 >= 0"):
        contrastive_divergence_loss(model, x, x, l2=-1.0)
    with pytest.raises(ValueError, match="one shape"):
        contrastive_divergence_loss(model, x, _randn(4, 3))
    with pytest.raises(ValueError, match="one shape"):
        contrastive_divergence_loss(model, x, x[:0])
    with pytest.raises(ValueError, match=r"energies of shape \(8,\), got \(8, 1\)"):
        contrastive_divergence_loss(lambda y: model(y)[:, None], x, x)
    for arguments in ({"l2": -1.0}, {"data_noise": -0.1}):
        with pytest.raises(ValueError, match="expected l2 and data_noise >= 0"):
            ContrastiveDivergence(DataChains(), **arguments)


# ── what gets gradients ───────────────────────────────────────────────────

SAMPLER = LangevinSampler(n_steps=3, step_size=0.1)


def _negatives(kind: str, sampler: Callable = SAMPLER) -> PersistentChains | ShortRun | DataChains:
    if kind == "persistent":
        buffer = ReplayBuffer(64, (2,), initial=_normal, generator=_generator(5), dtype=torch.float64)
        return PersistentChains(buffer, sampler)
    return ShortRun(_normal, sampler) if kind == "short" else DataChains(sampler)


each_kind = pytest.mark.parametrize("kind", ["persistent", "short", "data"])


def _gradients(kind: str, sampler: Callable) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of the loss as it is, and of the loss of the same samples given as constants."""
    model, data = _network(), _randn(16, 2)
    ContrastiveDivergence(_negatives(kind, sampler), l2=0.1)(model, data, _generator(7)).backward()
    whole = [parameter.grad for parameter in model.parameters()]
    constants = _network()
    samples = _negatives(kind, SAMPLER)(_network(), data, _generator(7))
    contrastive_divergence_loss(constants, data, samples, l2=0.1).backward()
    return whole, [parameter.grad for parameter in constants.parameters()]


@each_kind
def test_parameters_get_gradients_from_the_loss_alone(kind: str) -> None:
    torch.testing.assert_close(*_gradients(kind, SAMPLER), rtol=1e-12, atol=1e-14)


@each_kind
def test_a_sampler_that_leaves_gradients_behind_would_be_found(kind: str) -> None:
    """The mutant: ``backward()`` instead of ``autograd.grad``, and parameters not frozen."""

    def leaky(energy: nn.Module, x: Tensor, generator: torch.Generator | None) -> Tensor:
        inside = x.clone().requires_grad_()
        energy(inside).sum().backward()
        return SAMPLER(energy, x, generator)

    whole, constants = _gradients(kind, leaky)
    assert max((a - b).abs().max().item() for a, b in zip(whole, constants, strict=True)) > 1e-2


@each_kind
def test_a_graph_through_the_sampler_is_cut(kind: str) -> None:
    """A sampler that differentiates through its steps changes nothing: samples are constants."""

    def attached(energy: nn.Module, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return SAMPLER(energy, x, generator) + 0 * sum(parameter.sum() for parameter in energy.parameters())

    negatives = _negatives(kind, attached)
    assert not negatives(_network(), _randn(16, 2), _generator(7)).requires_grad
    torch.testing.assert_close(*_gradients(kind, attached), rtol=1e-12, atol=1e-14)


def test_the_loss_holds_samples_constant() -> None:
    """Also samples that come with a graph of their own."""
    model, data = Parabola(2.0), _randn(8, 2)
    attached = _randn(8, 2, seed=2) / model.a
    contrastive_divergence_loss(model, data, attached).backward()
    expected = (data.square().sum(1).mean() - attached.detach().square().sum(1).mean()) / 2
    torch.testing.assert_close(model.a.grad, expected)


@each_kind
def test_the_model_is_left_as_it_was(kind: str) -> None:
    model = _network()
    model.net[0].weight.requires_grad_(False)
    _negatives(kind)(model.train(), _randn(16, 2), _generator())
    assert model.training
    assert [parameter.requires_grad for parameter in model.parameters()] == [False] + [True] * 5
    assert all(parameter.grad is None for parameter in model.parameters())


# ── where chains start, and what they remember ────────────────────────────


def test_persistent_chains_go_on_where_they_stopped() -> None:
    buffer = ReplayBuffer(8, (2,), restart=0.0, initial=_normal, generator=_generator(), dtype=torch.float64)
    seen = []

    def shift(energy: nn.Module, x: Tensor, generator: torch.Generator | None) -> Tensor:
        seen.append(x.clone())
        return x + 1

    negatives, start = PersistentChains(buffer, shift), buffer.chains.clone()
    samples = negatives(Parabola(), _randn(8, 2), _generator())
    torch.testing.assert_close(samples, seen[0] + 1)
    negatives(Parabola(), _randn(8, 2), _generator(1))
    torch.testing.assert_close(buffer.chains, start + 2)
    assert buffer.ages.tolist() == [2] * 8


def test_short_runs_and_data_chains_start_anew() -> None:
    still = lambda energy, x, generator: x  # noqa: E731
    data = _randn(6, 2)
    assert torch.equal(DataChains(still)(Parabola(), data), data)
    short = ShortRun(_normal, still)
    assert torch.equal(short(Parabola(), data, _generator(3)), _normal(6, _generator(3)))
    assert torch.equal(short.sample(Parabola(), data), data)


def test_negatives_come_in_the_type_of_the_data() -> None:
    samples = ShortRun(_normal, SAMPLER)(Parabola().float(), torch.zeros(4, 2), _generator())
    assert samples.dtype == torch.float32


def test_a_failing_sampler_leaves_the_chains_as_they_were() -> None:
    buffer = ReplayBuffer(16, (2,), restart=1.0, initial=_normal, generator=_generator(), dtype=torch.float64)
    buffer.put(*reversed(buffer.draw(16, _generator())))
    before = buffer.state_dict()
    cliff = lambda x: torch.where(x[:, 0] > 0.5, math.nan, x.square().sum(1))  # noqa: E731
    loss = ContrastiveDivergence(PersistentChains(buffer, SAMPLER))
    with pytest.raises(NonFiniteEnergyError):
        loss(cliff, _randn(16, 2), _generator())
    assert torch.equal(buffer.chains, before["chains"])
    assert torch.equal(buffer.ages, before["ages"])  # although all of them would have started anew


def test_a_hidden_temperature_is_named() -> None:
    sampler = LangevinSampler(n_steps=1, step_size=20.0, noise_scale=0.005)
    with pytest.warns(TemperatureWarning, match="T = 1.25e-06"):
        DataChains(sampler)(Parabola(1e-3), _randn(4, 2), _generator())


def test_data_noise_and_the_last_energies() -> None:
    """E = ½‖x‖² of data at 0 with noise of std 2 in 2-D is 4 on average; samples start from the noisy data."""
    n = 20_000
    loss = ContrastiveDivergence(DataChains(lambda energy, x, generator: 0 * x), data_noise=2.0)
    value = loss(Parabola(), torch.zeros(n, 2, dtype=torch.float64), _generator())
    assert loss.last_energies == (pytest.approx(value.item()), 0.0)
    assert abs(value.item() - 4) < 4 * 4 / math.sqrt(n)


def test_state_survives_and_mismatches_are_refused() -> None:
    first, second = (ContrastiveDivergence(_negatives("persistent")) for _ in range(2))
    first(_network(), _randn(16, 2), _generator())
    state = first.state_dict()
    second.load_state_dict(state)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in state.items())
    without = ContrastiveDivergence(_negatives("short"))
    assert without.state_dict() == {}
    without.load_state_dict({})
    with pytest.raises(ValueError, match="expected no state"):
        without.load_state_dict(state)


def test_an_interrupted_training_goes_on_with_its_chains(tmp_path: Path) -> None:
    """Six updates in one go, and three and three: the same weights and chains, bit for bit."""

    def session(n_steps: int, run: Run | None) -> tuple[EnergyMLP, ContrastiveDivergence]:
        model, loss = _network().float(), ContrastiveDivergence(_negatives("persistent"), l2=0.01)
        config = TrainingConfig(n_steps=n_steps, batch_size=16, learning_rate=1e-2, betas=(0.0, 0.999))
        train(model, loss, _randn(64, 2).float(), config, run=run, progress=False)
        return model, loss

    whole, chains = session(6, None)
    session(3, Run(tmp_path))
    resumed, chains_resumed = session(6, Run(tmp_path))
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(chains.negatives.buffer.chains, chains_resumed.negatives.buffer.chains)


# ── oracle 5: the biased fixed points, reached by training ────────────────

N = 4096


def _learned(negatives: Callable, a: float, rate: float, std: float, n_updates: int, burn_in: int) -> float:
    """Gradient descent on the curvature, averaged after the burn-in. The data's second moment is s² exactly."""
    model, generator = Parabola(a), _generator(11)
    data = std * torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(N // 2)[:, None]
    loss, total = ContrastiveDivergence(negatives), 0.0
    for update in range(burn_in + n_updates):
        (slope,) = torch.autograd.grad(loss(model, data, generator), model.a)
        with torch.no_grad():
            model.a -= rate * slope
        total += model.a.item() * (update >= burn_in)
    return total / n_updates


def _slope(variance: Callable[[float], float], a: float) -> float:
    return (variance(a + 1e-4) - variance(a - 1e-4)) / 2e-4


def _persistent(sampler: Callable, std: float) -> PersistentChains:
    initial = lambda n, generator: std * torch.randn(n, 1, generator=generator, dtype=torch.float64)  # noqa: E731
    buffer = ReplayBuffer(N, (1,), restart=0.0, initial=initial, generator=_generator(12), dtype=torch.float64)
    return PersistentChains(buffer, sampler)


@pytest.mark.parametrize(("std", "step_size"), [(1.0, 0.3), (1.0, 0.8), (0.5, 0.1)])
def test_persistent_chains_learn_the_biased_curvature(std: float, step_size: float) -> None:
    """(2/ε)(1 − √(1 − ε/s²)), not 1/s². The standard error is that of the chains' mean square, divided by its slope."""
    n_updates, n_steps = 150, 4
    exact = persistent_fixed_point(std, step_size)
    slope = _slope(lambda a: ula_variance(1 / math.sqrt(a), step_size), exact)
    keeps = (1 - step_size * exact / 2) ** (2 * n_steps)  # correlation of x² from one update to the next
    standard_error = std**2 * math.sqrt(2 / (N * n_updates) * (1 + keeps) / (1 - keeps)) / abs(slope)
    bias = exact - 1 / std**2
    assert 4 * standard_error < bias / 4
    sampler = LangevinSampler(n_steps, step_size)
    learned = _learned(_persistent(sampler, std), 1 / std**2, 1 / abs(slope), std, n_updates, burn_in=40)
    assert abs(learned - exact) < 4 * standard_error


def test_an_accept_step_takes_the_bias_away() -> None:
    """The same chains with MALA leave exp(−E) invariant, and a = 1/s² is learned."""
    std, step_size, n_updates = 1.0, 0.8, 150
    sampler = lambda energy, x, generator: mala(energy, x, 4, step_size, generator=generator).x  # noqa: E731
    learned = _learned(_persistent(sampler, std), 1.2, 1.0, std, n_updates, burn_in=40)
    standard_error = math.sqrt(2 / (N * n_updates) * 3)  # correlated no more than half from one update to the next
    assert abs(learned - 1.0) < 4 * standard_error
    assert 4 * standard_error < (persistent_fixed_point(std, step_size) - 1) / 4


@pytest.mark.parametrize(
    ("step_size", "n_steps", "initial"),
    [(0.1, 10, 4.0), (0.1, 10, 0.25), (0.02, 20, 0.0)],
    ids=["wide start", "narrow start", "from a point"],
)
def test_short_runs_learn_their_own_curvature(step_size: float, n_steps: int, initial: float) -> None:
    """b^{2L} v₀ + ε(1 − b^{2L})/(1 − b²) = s²; from a point with few steps the curvature is negative: no density."""
    std, n_updates = 1.0, 100
    exact = short_run_fixed_point(std, step_size, n_steps, initial)
    slope = _slope(lambda a: short_run_variance(a, step_size, n_steps, initial), exact)
    standard_error = std**2 * math.sqrt(2 / (N * n_updates)) / abs(slope)  # all chains are independent
    assert 4 * standard_error < abs(exact - 1 / std**2) / 4
    start = lambda n, g: math.sqrt(initial) * torch.randn(n, 1, generator=g, dtype=torch.float64)  # noqa: E731
    negatives = ShortRun(start, LangevinSampler(n_steps, step_size))
    learned = _learned(negatives, 0.9 * exact, 1 / abs(slope), std, n_updates, burn_in=15)
    assert abs(learned - exact) < 4 * standard_error
    assert (exact < 0) == (initial == 0.0)


# ── two dimensions ────────────────────────────────────────────────────────


def test_persistent_chains_find_the_eight_modes() -> None:
    """A model that sees only the ring on which they lie has KL 0.26; this one tells them apart."""
    density, generator = eight_gaussians(), _generator()
    ring = lambda x: (x.norm(dim=1) - 2.0).square() / (2 * 0.3**2)  # noqa: E731
    assert kl_quadrature(density.log_prob, ring) == pytest.approx(0.2635, abs=1e-3)
    model = EnergyMLP(2, 128, 3)
    for layer in model.net[:-1:2]:  # weights that keep the size of the signal through SiLU
        nn.init.normal_(layer.weight, std=1.68 / math.sqrt(layer.in_features), generator=generator)
    start = lambda n, g: 6 * torch.rand(n, 2, generator=g) - 3  # noqa: E731
    loss = ContrastiveDivergence(PersistentChains(ReplayBuffer(2048, (2,), initial=start, generator=generator)))
    config = TrainingConfig(
        n_steps=250, learning_rate=3e-3, betas=(0.0, 0.999), decay="cosine", ema_half_life=6_400, seed=0
    )
    result = train(model, loss, density.sample(8_000, generator).float(), config, progress=False)
    assert kl_quadrature(density.log_prob, result.ema) < 0.18
