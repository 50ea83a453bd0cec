"""helpers.training.optimizers: Muon steps against the singular value decomposition, AdamW for the rest."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import Tensor, nn

from helpers.training import TrainingConfig
from helpers.training.optimizers import MuonAdamW, as_matrix, hidden_matrices, optimizer_of

needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has it since 2.9")
RATE = 0.01


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1),
            nn.GroupNorm(2, 24),
            nn.Conv2d(24, 32, 3, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 20),
        )


def config(**changes: object) -> TrainingConfig:
    return TrainingConfig(**{"n_steps": 1, "optimizer": "muon", "learning_rate": RATE} | changes)


def gradients(model: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def nearest_orthonormal(matrix: Tensor) -> Tensor:
    u, _, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u @ v


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def test_hidden_matrices_are_those_between_many_channels() -> None:
    model = network()
    assert list(hidden_matrices(model)) == ["2.weight", "5.weight"]
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    assert list(hidden_matrices(model)) == ["5.weight"]
    assert not hidden_matrices(nn.Sequential(nn.Embedding(40, 40), nn.LayerNorm(40)))


def test_a_shared_weight_appears_once() -> None:
    layer = nn.Linear(32, 32)
    assert len(hidden_matrices(nn.Sequential(layer, layer))) == 1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_matrix_is_a_view_of_all_elements(layout: torch.memory_format) -> None:
    kernel = torch.arange(2.0 * 3 * 2 * 2).reshape(2, 3, 2, 2).to(memory_format=layout)
    matrix = as_matrix(kernel)
    assert matrix.shape == (2, 12)
    assert matrix.data_ptr() == kernel.data_ptr()
    for row, filters in zip(matrix, kernel, strict=True):
        assert sorted(row.tolist()) == sorted(filters.flatten().tolist())


def test_a_weight_that_lies_otherwise_is_refused() -> None:
    with pytest.raises(ValueError, match=r"channels-last weight, got strides \(1, 3\)"):
        as_matrix(torch.zeros(4, 3).T)


@needs_muon
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_step_goes_along_the_nearest_orthonormal_matrix(layout: torch.memory_format) -> None:
    """Two steps: UVᵀ of the first gradient, then of the Nesterov average, both scaled as AdamW's updates."""
    model = network().to(memory_format=layout)
    optimizer = optimizer_of(model, config())
    momentum = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for seed in range(2):
        gradients(model, seed)
        before = copy.deepcopy(model.state_dict())
        optimizer.step()
        for name, parameter in hidden_matrices(model).items():
            momentum[name] = 0.95 * momentum[name] + 0.05 * parameter.grad
            ahead = 0.95 * momentum[name] + 0.05 * parameter.grad
            wanted = nearest_orthonormal(ahead.flatten(1))
            moved = (parameter.detach() - before[name]).flatten(1).double() / (0.2 * RATE * max(wanted.shape) ** 0.5)
            assert cosine(moved, -wanted) > 0.97
            lengths = torch.linalg.svdvals(moved)  # five Newton–Schulz iterations leave them near 1
            assert 0.6 < lengths.min() <= lengths.max() < 1.3
            assert cosine(moved, -ahead.flatten(1).double()) < 0.99  # not the direction of the gradient itself


@needs_muon
def test_all_other_weights_are_updated_by_adamw() -> None:
    model, reference = network(), network()
    settings = config(weight_decay=0.1, betas=(0.8, 0.95))
    optimizer = optimizer_of(model, settings)
    adamw = torch.optim.AdamW(reference.parameters(), lr=RATE, betas=(0.8, 0.95), weight_decay=0.1)
    for seed in range(3):
        gradients(model, seed)
        gradients(reference, seed)
        optimizer.step()
        adamw.step()
    hidden = hidden_matrices(model)
    for (name, parameter), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert torch.equal(parameter, other) == (name not in hidden), name


@needs_muon
def test_rate_decay_and_frozen_weights() -> None:
    """Without a gradient nothing moves; with a rate of 0 either; decay shrinks by rate times decay."""
    model = network()
    optimizer = optimizer_of(model, config(weight_decay=0.5))
    before = copy.deepcopy(model.state_dict())
    optimizer.zero_grad()
    optimizer.step()
    gradients(model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for group in optimizer.param_groups:
        group["lr"] = RATE
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = optimizer_of(model, config(weight_decay=0.5))
    optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name] * (1 - 0.5 * RATE))
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


@needs_muon
def test_a_badly_scaled_problem_is_solved_better_than_by_adamw() -> None:
    """A linear regression whose inputs have scales from 1 to 1/100, each optimiser at the best of three rates."""
    generator = torch.Generator().manual_seed(1)
    rotation = torch.linalg.qr(torch.randn(32, 32, generator=generator))[0]
    x = torch.randn(512, 32, generator=generator) * torch.logspace(0, -2, 32) @ rotation
    y = x @ torch.randn(32, 32, generator=generator)

    def final_loss(name: str, rate: float) -> float:
        model = nn.Linear(32, 32, bias=False)
        nn.init.zeros_(model.weight)
        optimizer = optimizer_of(model, config(optimizer=name))
        for step in range(200):
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - step / 200)
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            optimizer.step()
        return loss.item()

    best = {name: min(final_loss(name, rate) for rate in (0.1, 0.2, 0.4)) for name in ("muon", "adamw")}
    assert best["muon"] < 0.2 * best["adamw"]


@needs_muon
def test_a_network_without_hidden_matrices_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 16 channels for optimizer 'muon', got none"):
        MuonAdamW(nn.Linear(8, 8), config())


def test_a_torch_without_muon_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(ValueError, match=f"torch 2.9 or later .*, got {re.escape(torch.__version__)}: update it"):
        optimizer_of(network(), config())
