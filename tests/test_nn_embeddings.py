"""The embedding against numpy, `diffusers` and its own identities."""

import math

import numpy as np
import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from helpers.nn import SinusoidalTimeEmbedding, sinusoidal_embedding

SIZES = [(2, 10_000.0), (8, 10_000.0), (8, 100.0), (64, 1_000.0), (128, 10_000.0)]
TIMES = torch.cat([torch.arange(12), torch.tensor([99, 500, 999]), torch.tensor([1_000_000])]).double()


def halves_numpy(t, d, max_period):
    """Dimension by dimension, in float64: column j is the sine or cosine of its pair's angle."""
    columns = []
    for j in range(d):
        k = j % (d // 2)
        angle = t / np.power(max_period, 2 * k / d)
        columns.append(np.sin(angle) if j < d // 2 else np.cos(angle))
    return np.stack(columns, axis=1)


def interleaved_numpy(t, d, max_period):
    """The formula of Vaswani et al. 2017, section 3.5."""
    out = np.zeros((len(t), d))
    for i in range(d // 2):
        out[:, 2 * i] = np.sin(t / max_period ** (2 * i / d))
        out[:, 2 * i + 1] = np.cos(t / max_period ** (2 * i / d))
    return out


def permutation(d):
    """Interleaved column number → the column of the halves layout that it holds."""
    return [j // 2 if j % 2 == 0 else d // 2 + j // 2 for j in range(d)]


@pytest.mark.parametrize(("d", "max_period"), SIZES)
@pytest.mark.parametrize(("layout", "formula"), [("halves", halves_numpy), ("interleaved", interleaved_numpy)])
def test_agrees_with_the_formula(d, max_period, layout, formula):
    got = sinusoidal_embedding(TIMES, d, max_period, layout)
    expected = torch.from_numpy(formula(TIMES.numpy(), d, max_period))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("d", [2, 6, 8, 128])
def test_layouts_are_permutations_of_each_other(d):
    halves = sinusoidal_embedding(TIMES, d)
    interleaved = sinusoidal_embedding(TIMES, d, layout="interleaved")
    assert sorted(permutation(d)) == list(range(d))
    torch.testing.assert_close(interleaved, halves[:, permutation(d)], rtol=0, atol=0)


@pytest.mark.parametrize(("d", "max_period"), SIZES)
def test_agrees_with_diffusers(d, max_period):
    t = torch.arange(0, 1000, 7)
    theirs = get_timestep_embedding(t, d, flip_sin_to_cos=False, downscale_freq_shift=0, max_period=max_period)
    # Both in float32, but frequencies rounded in another order: 1e-7 of an angle up to 1000.
    torch.testing.assert_close(sinusoidal_embedding(t, d, max_period), theirs, rtol=0, atol=2e-4)
    flipped = get_timestep_embedding(t, d, flip_sin_to_cos=True, downscale_freq_shift=0, max_period=max_period)
    torch.testing.assert_close(sinusoidal_embedding(t, d, max_period).roll(d // 2, 1), flipped, rtol=0, atol=2e-4)


GOLDEN_HALVES = [0.84147096, 0.09983341, 0.00999983, 0.001, 0.54030234, 0.9950042, 0.99995, 0.9999995]
GOLDEN_INTERLEAVED = [0.84147096, 0.54030234, 0.09983341, 0.9950042, 0.00999983, 0.99995, 0.001, 0.9999995]


def test_golden_vector_of_question_2():
    t = torch.tensor([1])
    torch.testing.assert_close(SinusoidalTimeEmbedding(8)(t)[0], torch.tensor(GOLDEN_HALVES), rtol=0, atol=1e-7)
    interleaved = sinusoidal_embedding(t, 8, layout="interleaved")[0]
    torch.testing.assert_close(interleaved, torch.tensor(GOLDEN_INTERLEAVED), rtol=0, atol=1e-7)


def test_time_zero_has_no_angle():
    assert sinusoidal_embedding(torch.tensor([0]), 6).tolist() == [[0, 0, 0, 1, 1, 1]]


@pytest.mark.parametrize(("d", "max_period"), SIZES)
@pytest.mark.parametrize("shift", [1.0, 17.0, -250.0, 0.3])
def test_shift_is_a_rotation(d, max_period, shift):
    omega = max_period ** (-torch.arange(d // 2, dtype=torch.float64) / (d // 2))
    c, s = (omega * shift).cos(), (omega * shift).sin()
    turn = torch.block_diag(
        *[torch.stack([torch.stack([a, b]), torch.stack([-b, a])]) for a, b in zip(c, s, strict=True)]
    )
    t = torch.arange(0, 1000, 13).double()
    before, after = (sinusoidal_embedding(times, d, max_period, "interleaved") for times in (t, t + shift))
    torch.testing.assert_close(before @ turn.T, after, rtol=0, atol=1e-11)
    torch.testing.assert_close(turn @ turn.T, torch.eye(d, dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("d", "max_period"), SIZES)
@pytest.mark.parametrize("layout", ["halves", "interleaved"])
def test_dot_product_depends_on_the_difference_only(d, max_period, layout):
    t = torch.arange(0, 200).double()
    e = sinusoidal_embedding(t, d, max_period, layout)
    omega = max_period ** (-torch.arange(d // 2, dtype=torch.float64) / (d // 2))
    expected = torch.cos((t[:, None] - t)[..., None] * omega).sum(-1)
    torch.testing.assert_close(e @ e.T, expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(e.norm(dim=1), torch.full_like(t, math.sqrt(d / 2)))


def test_frequencies_are_the_slope_at_zero():
    """d/dt sin(ωt) = ω at 0, by autograd: from 1 down to just above 1/max_period, in a geometric sequence."""
    slopes = torch.autograd.functional.jacobian(
        lambda t: sinusoidal_embedding(t, 8, 10_000)[0, :4], torch.zeros(1, dtype=torch.float64)
    )[:, 0]
    torch.testing.assert_close(slopes, torch.tensor([1, 0.1, 0.01, 0.001], dtype=torch.float64))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.int64, torch.float32),
        (torch.int32, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_dtypes(given, expected):
    """Half precision is left before any angle is made: 128 is exact in all these types, its sine must be too."""
    e = sinusoidal_embedding(torch.tensor([128]).to(given), 16)
    assert e.dtype == expected
    torch.testing.assert_close(e.double(), sinusoidal_embedding(torch.tensor([128.0]).double(), 16), rtol=0, atol=1e-5)


def test_fractional_times_and_empty_batches():
    e = sinusoidal_embedding(torch.tensor([0.5]), 4)
    torch.testing.assert_close(e[0, 0], torch.tensor(math.sin(0.5)))
    assert sinusoidal_embedding(torch.empty(0), 4).shape == (0, 4)


@pytest.mark.parametrize("d", [0, 1, 7, -2])
def test_odd_dimensions_are_refused(d):
    with pytest.raises(ValueError, match=rf"even embedding_dim of at least 2.*got {d}"):
        sinusoidal_embedding(torch.tensor([1]), d)
    with pytest.raises(ValueError, match="even embedding_dim"):
        SinusoidalTimeEmbedding(d)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.tensor(1), 8), r"shape \(B,\), got \(\)"),
        ((torch.ones(2, 3), 8), r"shape \(B,\), got \(2, 3\)"),
        ((torch.tensor([1]), 8, 0.0), "max_period > 0, got 0"),
        ((torch.tensor([1]), 8, -1.0), "max_period > 0, got -1"),
        ((torch.tensor([1]), 8, 10.0, "cosines"), "'halves' or 'interleaved', got 'cosines'"),
    ],
)
def test_wrong_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        sinusoidal_embedding(*arguments)


def test_module_is_the_function_without_parameters():
    module = SinusoidalTimeEmbedding(32, max_period=500)
    assert list(module.parameters()) == []
    assert list(module.state_dict()) == []
    assert repr(module) == "SinusoidalTimeEmbedding(embedding_dim=32, max_period=500)"
    t = torch.tensor([0, 3, 999])
    torch.testing.assert_close(module(t), sinusoidal_embedding(t, 32, 500), rtol=0, atol=0)
    assert SinusoidalTimeEmbedding()(t).shape == (3, 128)


def test_gradient_reaches_continuous_times():
    t = torch.tensor([0.2, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda times: sinusoidal_embedding(times, 6, 10.0), t)
