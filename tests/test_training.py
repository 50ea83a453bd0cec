"""Tests of helpers.training: the loop, the average, the files."""

from __future__ import annotations

import copy
import functools
import json
import math
import os
from itertools import pairwise
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from tqdm import tqdm

from helpers import training
from helpers.diffusion import per_timestep_loss, simple_loss
from helpers.nn import TimeMLP
from helpers.oracle import GaussianMixture, exact_eps_model
from helpers.schedules import LinearSchedule
from helpers.training import EMA, TrainingConfig, TrainingDiverged, batches, load_checkpoint, save_checkpoint, train

POINTS = torch.arange(24.0).reshape(12, 2) / 10


def squared_error(model: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
    """Noisy regression, so that both the batch and the generator matter."""
    return (model(x) - x.sum(1, keepdim=True) - torch.randn(len(x), 1, generator=generator)).square().mean()


def network(seed: int = 0, dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))


def config(**changes: object) -> TrainingConfig:
    return TrainingConfig(**{"n_steps": 5, "batch_size": 4, "learning_rate": 0.01} | changes)


def run(model: nn.Module, loss: training.LossFunction = squared_error, **changes: object) -> training.TrainingResult:
    return train(model, loss, POINTS, config(**changes), progress=False)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# ── configuration ─────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n_steps": 0}, "n_steps"),
        ({"n_steps": 2.5}, "n_steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": None}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"grad_clip": -1.0}, "grad_clip"),
        ({"grad_clip": math.inf}, "grad_clip"),
        ({"ema_half_life": 0}, "ema_half_life"),
        ({"ema_rampup": None}, "ema_rampup"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"warmup_steps": 6}, "warmup_steps"),
        ({"decay": "linear"}, "decay"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"ema_every": 0}, "ema_every"),
        ({"n_parts": 0}, "n_parts"),
        ({"n_parts": 3}, "n_parts = 3 divides, got 4"),
        ({"decay_steps": 0, "decay": "cosine"}, "decay_steps"),
        ({"decay_steps": 6, "decay": "cosine"}, "decay_steps up to .* = 5, got 6"),
        ({"decay_steps": 4, "decay": "cosine", "warmup_steps": 2}, "decay_steps up to .* = 3, got 4"),
        ({"decay_steps": 2}, "decay 'cosine' with decay_steps = 2, got 'constant'"),
        ({"precision": "float16"}, "precision"),
        ({"optimizer": "sgd"}, "optimizer 'adamw' or 'muon', got 'sgd'"),
        ({"fused": "no"}, "fused to be True or False, got 'no'"),
        ({"channels_last": 1}, "channels_last to be True or False, got 1"),
        ({"n_steps": True}, "n_steps to be an integer >= 1, got True"),
        ({"learning_rate": "fast"}, "learning_rate > 0, got 'fast'"),
        ({"ema_half_life": True}, "ema_half_life > 0 or None, got True"),
        ({"weight_decay": "x"}, "weight_decay >= 0, got 'x'"),
        ({"weight_decay": math.inf}, "weight_decay >= 0, got inf"),
        ({"betas": 0.9}, r"betas to be two numbers in \[0, 1\), got 0\.9"),
        ({"betas": (0.9, 0.99, 0.999)}, "betas to be two numbers"),
        ({"betas": (0.9, "x")}, "betas to be two numbers"),
        ({"seed": None}, "seed to be an integer from 0 to .*, got None"),
        ({"seed": 1.5}, "seed to be an integer from 0 to .*, got 1.5"),
        ({"seed": -1}, "seed to be an integer from 0 to .*, got -1"),
        ({"seed": 99999999999999999999}, "seed to be an integer from 0 to .*, got 9999"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=f"expected .*{named}"):
        config(**changes)


def test_what_may_be_left_out() -> None:
    assert config(grad_clip=None, ema_half_life=None, warmup_steps=5).warmup_steps == 5


def test_the_largest_seed_trains_with_many_parts() -> None:
    """The parts have seeds of their own, above it: a thousand of them fit below what a generator takes."""
    largest = training.config.SEEDS - 1
    assert all(map(math.isfinite, run(network(), seed=largest, n_parts=4, betas=[0, 0.9]).losses))
    training.loop.Stream(largest + 1_000_003 * 1_000)


def test_learning_rate_rises_linearly_and_falls_along_a_cosine() -> None:
    cosine = TrainingConfig(110, learning_rate=0.2, warmup_steps=10, decay="cosine")
    assert [cosine.learning_rate_at(k) for k in range(10)] == pytest.approx([0.02 * (k + 1) for k in range(10)])
    assert cosine.learning_rate_at(10) == pytest.approx(0.2)
    assert cosine.learning_rate_at(60) == pytest.approx(0.1)  # half way
    assert cosine.learning_rate_at(109) == pytest.approx(0.1 * (1 - math.cos(math.pi / 100)))
    falling = [cosine.learning_rate_at(k) for k in range(10, 110)]
    assert all(a > b > 0 for a, b in pairwise(falling))
    constant = TrainingConfig(110, learning_rate=0.2, warmup_steps=10)
    assert {constant.learning_rate_at(k) for k in range(10, 110)} == {0.2}


def test_decay_may_begin_late() -> None:
    late = TrainingConfig(110, learning_rate=0.2, warmup_steps=10, decay="cosine", decay_steps=20)
    assert late.learning_rate_at(0) == pytest.approx(0.02)
    assert {late.learning_rate_at(k) for k in range(10, 91)} == {0.2}
    short = TrainingConfig(20, learning_rate=0.2, decay="cosine")  # what is left is a decay of its own
    for k in range(20):
        assert late.learning_rate_at(90 + k) == pytest.approx(short.learning_rate_at(k))
    all_of_it = TrainingConfig(110, learning_rate=0.2, warmup_steps=10, decay="cosine", decay_steps=100)
    usual = TrainingConfig(110, learning_rate=0.2, warmup_steps=10, decay="cosine")
    assert [all_of_it.learning_rate_at(k) for k in range(110)] == [usual.learning_rate_at(k) for k in range(110)]


def test_the_loop_uses_the_scheduled_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    rates, step = [], torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *arguments: object) -> object:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    run(network(), warmup_steps=2, decay="cosine")
    wanted = config(warmup_steps=2, decay="cosine")
    assert rates == [wanted.learning_rate_at(k) for k in range(5)]


# ── the average of the weights ────────────────────────────────────────────


def averaged(values: list[float], half_life: float, rampup: float, n_images: int) -> float:
    """What the average holds after following one weight through these values (the first is where it starts)."""
    model = nn.Linear(1, 1, bias=False).double()
    model.weight.data.fill_(values[0])
    ema = EMA(model, half_life, rampup)
    for value in values[1:]:
        model.weight.data.fill_(value)
        ema.update(model, n_images)
    return ema.model.weight.item()


def test_ema_is_the_weighted_sum_of_all_weights_so_far() -> None:
    values, a = [3.0, -1.0, 0.5, 7.0, 2.0], 0.5 ** (32 / 100)
    closed = a**4 * values[0] + (1 - a) * sum(a ** (4 - k) * values[k] for k in range(1, 5))
    assert averaged(values, 100, 1e9, 32) == pytest.approx(closed, rel=1e-12)


@pytest.mark.parametrize("batch", [1, 10, 500])
def test_ema_half_life_is_counted_in_images(batch: int) -> None:
    """After 1,000 images the old weights count one half, whatever the batch."""
    assert averaged([1.0] + [0.0] * (1000 // batch), 1000, 1e9, batch) == pytest.approx(0.5, rel=1e-12)


def test_ema_rampup_limits_the_half_life_to_a_share_of_the_images_seen() -> None:
    ema = EMA(nn.Linear(1, 1), half_life=1000, rampup=0.1)
    assert ema.decay(10) == pytest.approx(0.5 ** (10 / (0.1 * 10)))
    for _ in range(99):
        ema.update(nn.Linear(1, 1), 10)
    assert ema.images_seen == 990
    assert ema.decay(10) == pytest.approx(0.5 ** (10 / 100))
    ema.images_seen = 10**6
    assert ema.decay(10) == pytest.approx(0.5 ** (10 / 1000))


def test_ema_rampup_forgets_the_start_as_a_power_of_the_images_seen() -> None:
    """The weight of the start is the product of 2^(−1/(rampup k)), which falls like k^(−ln 2/rampup)."""
    n, rampup = 2000, 0.5
    left = averaged([1.0] + [0.0] * n, 1e12, rampup, 1)
    assert math.log(left) == pytest.approx(-math.log(2) / rampup * sum(1 / k for k in range(1, n + 1)), rel=1e-9)


def test_ema_copies_buffers_and_leaves_the_model_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = EMA(model)
    model(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)) + 3)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    before = flat(model)
    ema.update(model, 8)
    assert torch.equal(ema.model[1].running_mean, model[1].running_mean)
    assert ema.model[1].num_batches_tracked == 1
    assert torch.equal(flat(model), before)
    assert model.training
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.model.parameters())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("settings", [(0, 0.1), (100, 0), (-1, 0.1), (math.nan, 0.1)])
def test_ema_refuses_settings_that_make_no_sense(settings: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="half_life and rampup > 0"):
        EMA(nn.Linear(1, 1), *settings)


# ── batches ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("n", "size"), [(12, 4), (10, 3), (5, 8)])
def test_batches_show_each_example_once_an_epoch_in_a_new_order(n: int, size: int) -> None:
    stream = batches(torch.arange(n), size, torch.Generator().manual_seed(0))
    drawn = torch.cat([next(stream) for _ in range(n)])  # n batches are `size` epochs
    epochs = drawn.reshape(size, n)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(n))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == size


# ── the loop ──────────────────────────────────────────────────────────────


def test_training_is_adamw_on_clipped_gradients_with_an_average() -> None:
    """The same few steps written out."""
    clip, half_life, rate = 0.5, 30, 0.02
    reference, average = network().double(), network().double()
    optimizer = torch.optim.AdamW(reference.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
    generator = torch.Generator().manual_seed(7)
    stream, losses, norms = batches(POINTS.double(), 4, generator), [], []
    for _ in range(6):
        value = squared_error(reference, next(stream), generator)
        gradients = torch.autograd.grad(value, list(reference.parameters()))
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        for p, g in zip(reference.parameters(), gradients, strict=True):
            p.grad = g * min(1.0, clip / float(norm))
        optimizer.step()
        a = 0.5 ** (4 / half_life)
        for old, new in zip(average.parameters(), reference.parameters(), strict=True):
            old.data = a * old.data + (1 - a) * new.data
        losses.append(value.item())
        norms.append(norm.item())
    assert max(norms) > clip  # or clipping is not tested
    settings = config(
        n_steps=6, learning_rate=rate, betas=(0.9, 0.95), weight_decay=0.1, grad_clip=clip, seed=7,
        ema_half_life=half_life, ema_rampup=1e9,
    )  # fmt: skip
    result = train(network().double(), squared_error, POINTS.double(), settings, progress=False)
    assert result.ema is not None
    torch.testing.assert_close(flat(result.model), flat(reference), rtol=1e-5, atol=1e-6)  # clipping adds 1e-6 to norms
    torch.testing.assert_close(flat(result.ema), flat(average), rtol=1e-5, atol=1e-6)
    assert result.losses == pytest.approx(losses, rel=1e-5)
    assert result.grad_norms == pytest.approx(norms, rel=1e-5)


def test_without_clipping_gradients_stay_as_they_are() -> None:
    huge = lambda m, x, g: 1e6 * squared_error(m, x, g)  # noqa: E731
    model = network()
    result = run(model, huge, grad_clip=None, n_steps=1)
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    assert result.grad_norms == pytest.approx([norm.item()], rel=1e-6)
    run(model, huge, grad_clip=1.0, n_steps=1)
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    assert norm.item() == pytest.approx(1.0, rel=1e-5)


def test_the_same_seed_gives_the_same_bits_dropout_included() -> None:
    first, again, other = (run(network(dropout=0.5), n_steps=20, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(flat(first.model), flat(again.model))
    assert torch.equal(flat(first.ema), flat(again.ema))
    assert first.losses == again.losses
    assert not torch.equal(flat(first.model), flat(other.model))
    without = run(network(dropout=0.0), n_steps=20, seed=1)
    assert not torch.equal(flat(first.model), flat(without.model))  # dropout was at work


def test_training_neither_reads_nor_moves_the_global_generator() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        before = torch.get_rng_state()
        first = run(network(dropout=0.5))
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(6)
        assert torch.equal(flat(run(network(dropout=0.5)).model), flat(first.model))


def test_a_failing_run_puts_the_global_generator_back() -> None:
    before = torch.get_rng_state()
    with pytest.raises(TrainingDiverged):
        run(network(dropout=0.5), lambda m, x, g: m(x).mean() * math.nan)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_happens_in_training_mode_and_ends_in_evaluation_mode() -> None:
    modes = []

    def loss(model: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        modes.append(model.training)
        return squared_error(model, x, generator)

    result = run(network().eval(), loss)
    assert modes == [True] * 5
    assert not result.model.training
    assert not result.ema.training


def test_callback_sees_every_step_and_the_result_so_far() -> None:
    seen = []
    model = network()

    def callback(step: int, result: training.TrainingResult) -> None:
        assert result.model is model
        seen.append((step, len(result.losses), flat(result.ema)))

    result = train(model, squared_error, POINTS, config(), callback=callback, progress=False)
    assert [s[:2] for s in seen] == [(k, k) for k in range(1, 6)]
    assert not torch.equal(seen[0][2], seen[1][2])
    assert torch.equal(seen[-1][2], flat(result.ema))


def test_the_average_may_follow_every_third_step() -> None:
    """It then follows 3 batches at a time: the same half-life in images, and nothing of the 8th and the last step."""
    weights = []
    result = train(
        network(), squared_error, POINTS, config(n_steps=8, ema_every=3, ema_half_life=30, ema_rampup=1e9),
        callback=lambda step, so_far: weights.append(flat(so_far.model)), progress=False,
    )  # fmt: skip
    a = 0.5 ** (3 * 4 / 30)
    expected = a * (a * flat(network()) + (1 - a) * weights[2]) + (1 - a) * weights[5]
    torch.testing.assert_close(flat(result.ema), expected, rtol=1e-5, atol=1e-6)


def test_fewer_steps_than_the_average_waits_for_do_not_leave_it_at_the_random_start() -> None:
    """It then follows all of them at once: of the start is left a = 2^(−1/rampup), here 1/1024."""
    model = network()
    result = run(model, n_steps=3, ema_every=8)
    expected = torch.lerp(flat(network()), flat(model), 1 - 2.0**-10)
    torch.testing.assert_close(flat(result.ema), expected, rtol=1e-6, atol=1e-7)
    whole = run(network(), n_steps=9, ema_every=8)  # and where it has followed some, the last ones stay out
    torch.testing.assert_close(flat(whole.ema), flat(run(network(), n_steps=8, ema_every=8).ema), rtol=0, atol=0)


def test_an_average_that_goes_on_from_another_training_is_not_touched_by_fewer_steps() -> None:
    start = training.Start(network(5), 1000)
    result = train(network(), squared_error, POINTS, config(ema_every=8), start=start, progress=False)
    assert torch.equal(flat(result.ema), flat(network(5)))


@pytest.mark.parametrize("n_parts", [2, 4])
def test_parts_of_a_batch_add_up_to_the_whole(n_parts: int) -> None:
    """Without random numbers in the loss only the order of sums is left, and the order of the batches: all in one."""
    plain = lambda m, x, g: (m(x) - x.sum(1, keepdim=True)).square().mean()  # noqa: E731
    whole, parts = (
        train(network().double(), plain, POINTS.double(), config(batch_size=12, n_parts=n), progress=False)
        for n in (1, n_parts)
    )
    assert parts.losses == pytest.approx(whole.losses, rel=1e-12)
    assert parts.grad_norms == pytest.approx(whole.grad_norms, rel=1e-12)
    torch.testing.assert_close(flat(parts.model), flat(whole.model), rtol=1e-10, atol=1e-12)


def test_dropout_does_not_draw_the_numbers_of_the_loss() -> None:
    with training.loop.Stream(7).active(torch.device("cpu")) as generator:
        assert not torch.isin(torch.randn(64, generator=generator), torch.randn(64)).any()


def test_on_another_device_dropout_is_seeded_from_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    monkeypatch.setattr(torch.mps, "manual_seed", seeds.append)
    streams = [training.loop.Stream(seed) for seed in (0, 1)]

    def use(stream: training.loop.Stream) -> int:
        with stream.active(torch.device("mps")):
            pass
        return seeds[-1]

    assert len({use(stream) for stream in streams * 2}) == 4
    state = streams[0].state()
    following = use(streams[0])
    streams[0].restore(state)
    assert use(streams[0]) == following


def test_each_part_has_random_numbers_of_its_own() -> None:
    drawn: list[Tensor] = []

    def loss(model: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        drawn.append(torch.cat([torch.randn(2, generator=generator), torch.randn(2)]))  # dropout draws the latter
        return squared_error(model, x, generator)

    run(network(), loss, n_parts=2, n_steps=2)
    assert len({tuple(numbers.tolist()) for numbers in drawn}) == 4


@pytest.mark.parametrize("name", ["bfloat16", "channels_last", "fused"])
def test_fast_options_change_the_numbers_little(name: str) -> None:
    options = {"precision": "bfloat16"} if name == "bfloat16" else {name: True}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Unflatten(1, (2, 1, 1)), nn.Conv2d(2, 4, 1), nn.Flatten(), nn.Tanh(), nn.Linear(4, 1))
    plain, fast = (run(copy.deepcopy(model), n_steps=10, **changes) for changes in ({}, options))
    assert fast.losses == pytest.approx(plain.losses, rel=0.02 if name == "bfloat16" else 1e-5)
    if name == "bfloat16":
        assert fast.losses != plain.losses  # it was at work
    if name == "fused":
        assert training.optimizers.optimizer_of(model, config(fused=True)).param_groups[0]["fused"] is True
    assert all(p.dtype == torch.float32 for p in fast.model.parameters())


def test_no_average_where_none_is_asked_for() -> None:
    result = run(network(), ema_half_life=None)
    assert result.ema is None
    assert result.average is result.model  # what there is to sample with
    assert (averaged := run(network())).average is averaged.ema


def test_the_loss_may_be_given_a_part_that_holds_all_weights() -> None:
    """The same bits as where the loss takes the part itself; a part that leaves weights outside is refused."""

    class Around(nn.Module):
        def __init__(self, inside: nn.Module) -> None:
            super().__init__()
            self.inside = inside

    def own(model: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        return squared_error(model.inside, x, generator)

    settings = {"data": POINTS, "config": config(), "progress": False}
    whole = train(Around(network()), own, **settings)
    part = train(Around(network()), squared_error, **settings, through=lambda model: model.inside)
    assert isinstance(part.model, Around)
    assert isinstance(part.ema, Around)
    assert torch.equal(flat(part.model), flat(whole.model))
    assert torch.equal(flat(part.ema), flat(whole.ema))
    with pytest.raises(
        ValueError, match=r"all weights inside the module that the loss is given, got inside\.3\.weight"
    ):
        train(Around(network()), squared_error, **settings, through=lambda model: model.inside[:3])


@pytest.mark.parametrize("hidden", [False, True])
def test_progress_bar_obeys_the_environment(
    hidden: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """tqdm reads TQDM_DISABLE once, when it is imported, and makes it the default of its argument ``disable``."""
    monkeypatch.setattr(training.loop, "tqdm", functools.partial(tqdm, disable=hidden))
    train(network(), squared_error, POINTS, config(), progress=False)
    assert capsys.readouterr().err == ""
    train(network(), squared_error, POINTS, config(), progress=True)
    assert ("5/5" in capsys.readouterr().err) != hidden


# ── what goes wrong ───────────────────────────────────────────────────────


def test_no_data_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one training example"):
        train(network(), squared_error, POINTS[:0], config(), progress=False)


@pytest.mark.parametrize(
    ("loss", "got"), [(lambda m, x, g: m(x).flatten(), r"shape \(4,\)"), (lambda m, x, g: m(x).mean().item(), "float")]
)
def test_a_loss_that_is_no_scalar_tensor_is_refused(loss: training.LossFunction, got: str) -> None:
    with pytest.raises(ValueError, match=f"scalar tensor, got {got}"):
        run(network(), loss)


class InfiniteSlope(torch.autograd.Function):
    """0 with a gradient of infinity: what a square root at zero has."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.sum() * 0

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient.expand(4, 1) * math.inf


@pytest.mark.parametrize("clip", [1.0, None])
@pytest.mark.parametrize(
    ("breakdown", "named"),
    [
        (lambda m, x: m(x).mean() * math.nan, "loss is nan at step 3"),
        (lambda m, x: m(x).mean() * 0 + math.inf, "loss is inf at step 3"),
        (lambda m, x: InfiniteSlope.apply(m(x)), "gradient is (inf|nan) at step 3"),
    ],
)
def test_divergence_raises_and_keeps_the_last_good_weights(breakdown: object, named: str, clip: float | None) -> None:
    calls = iter(range(5))

    def loss(model: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        good = squared_error(model, x, generator)
        return breakdown(model, x) if next(calls) == 2 else good

    model, averages = network(), []
    with pytest.raises(TrainingDiverged, match=named):
        train(model, loss, POINTS, config(grad_clip=clip), callback=lambda _, r: averages.append(r.ema), progress=False)
    good = run(network(), n_steps=2, grad_clip=clip)
    assert torch.equal(flat(model), flat(good.model))
    assert torch.equal(flat(averages[-1]), flat(good.ema))


# ── it learns: optima in closed form ──────────────────────────────────────


def test_training_finds_the_least_squares_solution() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 3, generator=generator, dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64) + 0.7
    y = y + 0.3 * torch.randn(256, 1, generator=generator, dtype=torch.float64)
    model = nn.Linear(3, 1).double()
    settings = TrainingConfig(800, 256, 0.1, decay="cosine")
    data = torch.cat([x, y], dim=1)
    train(model, lambda m, z, g: (m(z[:, :3]) - z[:, 3:]).square().mean(), data, settings, progress=False)
    exact = torch.linalg.lstsq(torch.cat([x, torch.ones(256, 1, dtype=torch.float64)], dim=1), y).solution.flatten()
    torch.testing.assert_close(flat(model), exact, rtol=0, atol=1e-4)


class LinearDenoiser(nn.Module):
    """ε̂ = W_t x + b_t: one linear map for each t, which is all that Gaussian data needs."""

    def __init__(self, n_steps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_steps, 2, 2, dtype=torch.float64))
        self.bias = nn.Parameter(torch.zeros(n_steps, 2, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.einsum("bij,bj->bi", self.weight[t], x) + self.bias[t]


def test_the_simple_loss_on_gaussian_data_finds_the_exact_noise_predictor() -> None:
    """E[ε | x_t] = √(1−ᾱ) (ᾱΣ + (1−ᾱ)I)⁻¹ (x_t − √ᾱ μ), and its loss is the least there is."""
    schedule = LinearSchedule(4, 0.1, 0.6)
    mean = torch.tensor([0.8, -0.5], dtype=torch.float64)
    covariance = torch.tensor([[1.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
    density = GaussianMixture(mean[None], covariance[None])
    data = density.sample(50_000, torch.Generator().manual_seed(0))

    def loss(model: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        return simple_loss(model, x, schedule, generator)

    model = LinearDenoiser(4)
    result = train(model, loss, data, TrainingConfig(1500, 1024, 0.05, decay="cosine"), progress=False)
    for t in range(4):
        a = float(schedule.alpha_bar(t))
        slope = math.sqrt(1 - a) * torch.linalg.inv(a * covariance + (1 - a) * torch.eye(2, dtype=torch.float64))
        torch.testing.assert_close(result.ema.weight[t].data, slope, rtol=0, atol=0.02)
        torch.testing.assert_close(result.ema.bias[t].data, -slope @ (math.sqrt(a) * mean), rtol=0, atol=0.02)
    learned, exact = (
        per_timestep_loss(m, data, schedule, range(4), torch.Generator().manual_seed(1))
        for m in (result.ema, exact_eps_model(density, schedule))
    )
    torch.testing.assert_close(learned, exact, rtol=1e-3, atol=0)


def test_a_network_approaches_the_bound_of_a_mixture() -> None:
    """Most of the way from the untrained network to the exact denoiser, and never below it."""
    schedule = LinearSchedule(50, 0.002, 0.2)
    density = GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), 0.04)
    data = density.sample(4096, torch.Generator().manual_seed(0)).float()

    def loss(model: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        return simple_loss(model, x, schedule, generator)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TimeMLP(2, 32, 2, 16)
    times = range(0, 50, 7)
    fresh = density.sample(4096, torch.Generator().manual_seed(1)).float()
    bound, before = (
        per_timestep_loss(m, fresh, schedule, times, torch.Generator().manual_seed(2)).mean()
        for m in (exact_eps_model(density, schedule), model)
    )
    result = train(model, loss, data, TrainingConfig(500, 256, 5e-3, decay="cosine"), progress=False)
    after = per_timestep_loss(result.ema, fresh, schedule, times, torch.Generator().manual_seed(2)).mean()
    assert bound < after < bound + 0.15 * (before - bound)


# ── files ─────────────────────────────────────────────────────────────────


def saved(folder: Path, **info: object) -> tuple[Path, nn.Module]:
    model = network(3)
    return save_checkpoint(folder / "model.safetensors", {"model": model, "ema": network(4)}, info), model


def test_checkpoint_round_trip_is_exact(tmp_path: Path) -> None:
    path, model = saved(tmp_path / "new" / "folder", note="für später", losses=[0.5, 0.25])
    loaded, average = network(0), network(0)
    info = load_checkpoint(path, {"model": loaded, "ema": average})
    assert torch.equal(flat(loaded), flat(model))
    assert torch.equal(flat(average), flat(network(4)))
    assert info["note"] == "für später"
    assert info["losses"] == [0.5, 0.25]
    assert info["sha256"] == training.sha256(path)
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.json", "model.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_checkpoints_keep_the_dtype_and_buffers(tmp_path: Path, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).to(dtype)
    model[1].num_batches_tracked.fill_(2**24 + 1)  # float32 cannot hold it
    path = save_checkpoint(tmp_path / "m.safetensors", {"model": model}, {})
    loaded = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).to(dtype)
    load_checkpoint(path, {"model": loaded})
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_half_precision_files_fill_float32_networks(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "m.safetensors", {"ema": network(3).bfloat16()}, {})
    loaded = network(0)
    load_checkpoint(path, {"ema": loaded})
    assert loaded[0].weight.dtype == torch.float32
    assert torch.equal(flat(loaded), flat(network(3).bfloat16()).float())


def test_one_network_may_be_saved_under_two_names(tmp_path: Path) -> None:
    model = network(3)
    path = save_checkpoint(tmp_path / "m.safetensors", {"model": model, "ema": model}, {})
    loaded = network(0)
    load_checkpoint(path, {"ema": loaded})
    assert torch.equal(flat(loaded), flat(model))


def test_missing_files_are_named(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    path.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*model\.json"):
        load_checkpoint(path, {})
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*other\.safetensors"):
        load_checkpoint(tmp_path / "other.safetensors", {})


def test_a_changed_file_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    model = network(0)
    with pytest.raises(ValueError, match="SHA-256 differs"):
        load_checkpoint(path, {"model": model})
    assert torch.equal(flat(model), flat(network(0)))


@pytest.mark.parametrize("text", ["{ half a", "[1, 2]", "{}"])
def test_a_broken_description_is_refused(tmp_path: Path, text: str) -> None:
    path, _ = saved(tmp_path)
    path.with_suffix(".json").write_text(text)
    with pytest.raises(ValueError, match=r"model\.json does not describe a checkpoint"):
        load_checkpoint(path, {})


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    """By one line, whatever the number of weights, and before any of them is loaded."""
    path, _ = saved(tmp_path)
    other = nn.Linear(2, 8)
    before = flat(other)
    with pytest.raises(ValueError, match="does not fit") as caught:
        load_checkpoint(path, {"model": other})
    assert str(caught.value) == (
        "model.safetensors does not fit this Linear: 2 weights missing, 4 unexpected, first weight"
    )
    assert torch.equal(flat(other), before)
    wider = nn.Sequential(nn.Linear(2, 9), nn.Tanh(), nn.Identity(), nn.Linear(9, 1))
    with pytest.raises(ValueError, match=r"fit this Sequential: 3 weights of another shape, first 0\.weight$"):
        load_checkpoint(path, {"model": wider})


def test_a_name_that_is_not_in_the_file_is_refused_with_those_that_are(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    with pytest.raises(ValueError, match=r"named 'average' in .*, found ema, model"):
        load_checkpoint(path, {"average": network()})


@pytest.mark.parametrize(
    ("name", "weights", "info", "message"),
    [
        ("model.pt", ["model"], {}, "ends in .safetensors, got model.pt"),
        ("m.safetensors", ["a.b"], {}, "names without dots, got a.b"),
        ("m.safetensors", ["model"], {"t": torch.ones(1)}, "info that JSON can hold"),
        ("m.safetensors", ["model"], {"loss": math.nan}, "info that JSON can hold"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_leaves_no_file(
    tmp_path: Path, name: str, weights: list[str], info: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        save_checkpoint(tmp_path / name, {w: network() for w in weights}, info)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["replace", "fsync", "second fsync", "serialise"])
def test_an_interrupted_save_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path, model = saved(tmp_path, version=1)
    calls = []

    def fail(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 1 + broken.startswith("second"):
            raise OSError("no space left on device")

    target = (safetensors.torch, "save") if broken == "serialise" else (os, broken.split()[-1])
    monkeypatch.setattr(*target, fail)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(path, {"model": network(9)}, {"version": 2})
    monkeypatch.undo()
    loaded = network(0)
    assert load_checkpoint(path, {"model": loaded})["version"] == 1
    assert torch.equal(flat(loaded), flat(model))
    assert len(list(tmp_path.iterdir())) == 2  # no litter


def test_a_second_rename_that_fails_puts_the_first_file_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows while somebody reads the card."""
    path, model = saved(tmp_path, version=1)
    calls, replace = [], os.replace

    def second_fails(source: object, target: object) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise PermissionError(13, "Permission denied", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(PermissionError):
        save_checkpoint(path, {"model": network(9)}, {"version": 2})
    loaded = network(0)
    assert load_checkpoint(path, {"model": loaded})["version"] == 1
    assert torch.equal(flat(loaded), flat(model))
    assert len(list(tmp_path.iterdir())) == 2
    calls.clear()
    with pytest.raises(PermissionError):
        save_checkpoint(tmp_path / "new.safetensors", {"model": network(9)}, {})
    assert len(list(tmp_path.iterdir())) == 2  # where nothing was before, nothing is


def test_what_killed_writers_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    old, new = tmp_path / f".{path.name}.old", tmp_path / f".{path.name}.new"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    saved(tmp_path)
    assert (old.exists(), new.exists()) == (False, True)


def test_a_weight_that_half_precision_cannot_hold_is_refused(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight[0, 1] = 1e5
    with pytest.raises(ValueError, match=r"model\.weight within the range of torch\.float16, got up to 100000"):
        save_checkpoint(tmp_path / "m.safetensors", {"model": model}, {}, torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_a_save_replaces_both_files(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, version=1)
    save_checkpoint(path, {"model": network(9)}, {"version": 2})
    loaded = network(0)
    assert load_checkpoint(path, {"model": loaded})["version"] == 2
    assert torch.equal(flat(loaded), flat(network(9)))
    assert json.loads(path.with_suffix(".json").read_text())["version"] == 2


def test_write_atomically_writes_the_whole_file(tmp_path: Path) -> None:
    training.write_atomically(tmp_path / "deep" / "file.bin", b"abc")
    assert (tmp_path / "deep" / "file.bin").read_bytes() == b"abc"
    assert len(list((tmp_path / "deep").iterdir())) == 1
