"""Quizzes are well formed, what they claim is computed, and in a browser every answer gets the reply that it should."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from _browser import launched
from _learning import LOOKS, barriers, plain, watched, write_quiz_page
from _notebooks import LESSONS, code_cells
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from helpers import diffusion, ebm, evaluation, langevin, oracle, quizzes, samplers, schedules
from helpers.nn import AttentionBlock, sinusoidal_embedding

NUMBERS = [int(name[:2]) for name in LESSONS]
ALL = {question["id"]: question for number in NUMBERS for question in quizzes.load(number)}
MARKUP = re.compile(r"</?(code|em|sub|sup)>")

each_lesson = pytest.mark.parametrize("lesson", NUMBERS)


def answers(name: str, correct: bool) -> list[dict[str, Any]]:
    return [answer for answer in ALL[name]["answers"] if answer["correct"] is correct]


def middle(answer: dict[str, Any]) -> float:
    return sum(answer["range"]) / 2


# --- form


@each_lesson
def test_questions_are_well_formed(lesson: int) -> None:
    questions = quizzes.load(lesson)
    assert 4 <= len(questions) <= 6
    assert {question["type"] for question in questions} == {"multiple_choice", "many_choice", "numeric"}
    for question in questions:
        assert set(question) == {"id", "type", "question", "answers"}
        assert re.fullmatch(rf"{lesson}-[a-z-]+", question["id"])
        texts = [question["question"]]
        for answer in question["answers"]:
            assert len(answer["feedback"]) > 15, "every answer, right or wrong, is explained"
            texts += [answer["feedback"], answer.get("answer", "")]
        for text in texts:
            rest = MARKUP.sub("", text)
            assert not re.search(r"<|[$\\`]|\]\(|&(?!lt;|gt;|amp;)", rest), rest
    assert len({question["id"] for question in questions}) == len(questions)


@pytest.mark.parametrize("name", [name for name, question in ALL.items() if question["type"] != "numeric"])
def test_choices_have_right_and_wrong_answers(name: str) -> None:
    kind, found = ALL[name]["type"], ALL[name]["answers"]
    assert all(set(answer) == {"answer", "correct", "feedback"} for answer in found)
    assert len({answer["answer"] for answer in found}) == len(found) >= 4
    assert (len(answers(name, True)) == 1) == (kind == "multiple_choice")
    assert answers(name, True)
    assert answers(name, False)


@pytest.mark.parametrize("name", [name for name, question in ALL.items() if question["type"] == "numeric"])
def test_numbers_have_one_right_range_and_speak_to_all_others(name: str) -> None:
    *ranges, default = ALL[name]["answers"]
    assert default["type"] == "default"
    assert len([answer for answer in ranges if answer["correct"]]) == 1
    assert len(ranges) >= 3, "at least two typical mistakes"
    ends = sorted(answer["range"] for answer in ranges)
    assert all(low < high for low, high in ends)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(ends)), "ranges overlap"


def test_the_place_of_the_right_answer_tells_nothing() -> None:
    places = torch.zeros(4)
    for question in ALL.values():
        if question["type"] == "multiple_choice":
            places[[answer["correct"] for answer in question["answers"]].index(True)] += 1
    assert places.min() > 0.15 * places.sum()


@pytest.mark.parametrize("name", LESSONS)
def test_the_lesson_shows_its_quiz_as_it_is(name: str) -> None:
    last = code_cells(name)[-1]
    number = int(name[:2])
    assert last.source == f"from helpers import quizzes\n\nquizzes.show({number})"
    [output] = last.outputs
    assert output.data == {"text/html": quizzes.show(number)._repr_html_(), "text/plain": repr(quizzes.show(number))}


def test_there_is_no_other_quiz() -> None:
    with pytest.raises(ValueError, match="expected the number of a lesson, 0 to 14, got 15"):
        quizzes.show(15)


# --- what they claim: numbers


def count(layer: nn.Module) -> int:
    return sum(p.numel() for p in layer.parameters())


def two_levels(first: float, second: float) -> schedules.NoiseSchedule:
    """A schedule of two steps with these ᾱ."""
    return schedules.NoiseSchedule(torch.tensor([1 - first, 1 - second / first], dtype=torch.float64))


def gradient_of(program: Any, value: float) -> float:
    x = torch.tensor([value], requires_grad=True)
    program(x)
    return x.grad.item()


def twice(x: torch.Tensor) -> None:
    for _ in range(2):
        (x**2).backward()


def odd_size() -> int:
    picture, half = torch.zeros(1, 1, 65, 65), nn.Conv2d(1, 1, 3, 2, 1)
    for _ in range(3):
        picture = half(picture)
    return picture.shape[-1]


def guided_std(scale: float) -> float:
    """Of N(0, 1), guided away from N(0, 4): the ODE is linear, so one point tells."""
    informed, other = (oracle.GaussianMixture(torch.zeros(1, 1), variance) for variance in (1.0, 4.0))
    guided = samplers.Autoguided(oracle.exact_denoiser(informed), oracle.exact_denoiser(other), scale)
    levels = schedules.append_zero(schedules.log_snr_sigmas(60, 0.002, 1000.0))
    return float(samplers.sample_ode(guided, samplers.UniPC(), torch.full((1, 1), 1000.0).double(), levels))


def arrow_losses() -> list[float]:
    """Denoising score matching of N(0, I) in the plane at σ = 1: of the best score, and of 0."""
    x = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = (lambda z, sigma: -z / 2, lambda z, sigma: 0 * z)
    return [float(ebm.denoising_score_matching_loss(s, x, 1.0, torch.Generator().manual_seed(1))) for s in scores]


def product_variances() -> list[float]:
    """Of two N(0, 1) at σ = 1: smoothed and then multiplied, and the other way round."""
    x = torch.linspace(-12, 12, 401, dtype=torch.float64)
    kernel, normal = (-((x[:, None] - x) ** 2) / 2).exp(), (-(x**2) / 2).exp()
    densities = (kernel @ normal) ** 2, kernel @ normal**2, normal**2
    return [float((p * x**2).sum() / p.sum()) for p in densities]


def mean_excess() -> float:
    """Mean Fréchet distance of 1000 draws in 64 dimensions from their own Gaussian, in units of its second order."""
    generator = torch.Generator().manual_seed(0)
    truth = evaluation.FeatureStatistics(torch.zeros(64).double(), torch.eye(64).double(), 1000)
    draws = [torch.randn(1000, 64, generator=generator, dtype=torch.float64) for _ in range(4)]
    found = sum(evaluation.frechet_distance(evaluation.feature_statistics(x), truth) for x in draws) / 4
    assert 1 < found / 1.104 < 1.1  # higher orders add a little
    values = torch.ones(64, dtype=torch.float64)
    return float(1.25 * values.sum() + (values[:, None] * values / (values[:, None] + values)).sum() / 2) / 1000


def convolution_mflop() -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        nn.Conv2d(128, 128, 3, padding=1)(torch.zeros(1, 128, 16, 16))
    return counter.get_total_flops() / 1e6


def shell() -> list[float]:
    c_skip, c_out, *_ = diffusion.EDMPrecond(nn.Identity(), 0.5).coefficients(torch.tensor(1.0))
    return [float(c_skip), 1 - float(c_skip), 0.5 / 1.5, float(c_out)]


def one_step(solver: samplers.Euler) -> float:
    x = torch.full((1, 1), 5.0, dtype=torch.float64)
    return float(samplers.sample_ode(lambda x, sigma: torch.ones_like(x), solver, x, [2.0, 0.5], partial=True))


def gaussian_guess() -> float:
    wide = oracle.exact_denoiser(oracle.GaussianMixture(torch.zeros(1, 1), 4.0))
    return float(wide(torch.full((1, 1), 5.0).double(), torch.ones(1).double()))


def mean_length(x: torch.Tensor) -> float:
    return float(x.norm(dim=1).mean())


@functools.cache
def computed() -> dict[str, list[float]]:
    """Each question for a number: the right answer, and those that the typical mistakes give, in their order."""
    slowest = math.asin(float(sinusoidal_embedding(torch.ones(1).double(), 8)[0, 3]))
    length = float(sinusoidal_embedding(torch.tensor([137.0]).double(), 128).square().sum())
    noises = torch.randn(2, 2000, 256, generator=torch.Generator().manual_seed(0))
    coarse = two_levels(0.8, 0.5)
    weight = float(diffusion.vlb_weights(two_levels(10 / 11, 8 / 9))[1])
    weights = torch.tensor([2.0, 1.0])
    best, nothing = arrow_losses()
    fall = math.log(0.1)

    return {
        "0-zero-loss": [float(oracle.standard_gaussian(1).covariances.squeeze()), 0, 2],
        "0-bowl": [oracle.ula_variance(1.0, 0.8), 1, 1 + 0.8 / 4, 0.8],
        "1-length": [length, 2 * length, length / 64, length**0.5],
        "1-full-turn": [2 * math.pi / slowest, 10_000, 2 * math.pi * 10_000, 1 / slowest],
        "2-odd-size": [odd_size(), 65 // 8, 65 / 8],
        "2-parameters": [
            count(nn.Conv2d(64, 128, 3)),
            count(nn.Conv2d(64, 128, 3, bias=False)),
            count(nn.Conv2d(64, 128, 3, bias=False)) + 64,
            count(nn.Conv2d(64, 128, 1)),
        ],
        "3-sigma": [float(two_levels(0.5, 0.2).sigma(1)), math.sqrt(0.8), 4, 0.5, float(two_levels(0.5, 0.2).snr(1))],
        "4-weight": [weight, 2 * weight, (8 / 10 - 1) / 2, 8 * weight],
        "4-half-life": [math.log(0.5) / math.log(2 ** (-64 / 6400)), 6400, 50],
        "5-posterior": [
            float(coarse.posterior_coefficients(1).variance),
            float(coarse.beta(1)),
            0.8 - 0.5,
            float(coarse.beta(1)) * 0.5 / 0.2,
        ],
        "5-order": [0.04 / 4, 0.04 / 4**2, 0.04 / 4**0.5],
        "5-midpoint": [mean_length(noises.mean(0)), mean_length(noises[0]), 16 / 2, mean_length(noises.sum(0))],
        "6-broadcast": [
            gradient_of(lambda x: (torch.stack([x**2, x]) * weights).sum().backward(), 3.0),
            gradient_of(lambda x: (torch.cat([x**2, x]) * weights).sum().backward(), 3.0),
            gradient_of(lambda x: torch.cat([x**2, x]).sum().backward(), 3.0),
        ],
        "6-accumulate": [gradient_of(twice, 3.0), gradient_of(lambda x: (x**2).backward(), 3.0), 6 * 6],
        "6-central": [2 * 3 * 32 * 32, 3 * 32 * 32, 3 * 32 * 32 + 1, 2],
        "7-temperature": [langevin.implied_temperature(2 * 0.02, 0.1), 1, 0.1**2 / 0.02, 0.1],
        "7-bias": [oracle.ula_variance(0.3, 0.06), 0.09, 0.09 + 0.06 / 4, 0.09 / (1 - 0.06 / 4)],
        "8-fixed-point": [oracle.persistent_fixed_point(1.0, 0.64), 1, oracle.ula_variance(1.0, 0.64), 1 - 0.64 / 4],
        "9-dsm": [best, 0, nothing, best / 2],
        "9-tweedie": [gaussian_guess(), 5, (5 + gaussian_guess()) / 2, 5 - gaussian_guess()],
        "9-products": [*product_variances(), 2 + 2],
        "10-skip": shell(),
        "10-adam": [2 * fall / math.log(0.99), 2 * fall / math.log(0.999), fall / math.log(0.99), 1 / (1 - 0.99)],
        "11-euler": [one_step(samplers.Euler()), 0.75 * 5 + 0.25, 5 + math.log(4) * (1 - 5), 1],
        "11-squeeze": [guided_std(3.0), (3 / 1 - 2 / 4) ** -0.5, guided_std(4.0), guided_std(1.0)],
        "12-excess": [mean_excess(), 64 / 1000, 0, 1000 * mean_excess()],
        "12-difference": [0.6 / math.hypot(0.4 / 2, 0.3 / 3), 0.6 / math.hypot(0.4, 0.3), 0.6 / (0.4 / 2 + 0.3 / 3)],
        "13-flops": [convolution_mflop(), convolution_mflop() / 2, 3 * convolution_mflop(), convolution_mflop() / 256],
        "13-ring": [2 * (1 - 1 / 4) * 40, 2 * 40, 2 * (4 - 1) * 40, (1 - 1 / 4) * 40],
        "13-memory": [10 * 4 * 5, 10 * 4, 10 * 4 * 4, 10 * 4 * 3],
        "14-waiting": [50 / (1 - 0.9), 50 / (1 - 0.9) - 50, 50 / 0.9, 50],
        "14-little": [40 * 0.25, 40 / 0.25, 40],
        "14-batch": [4000 / (8 + 2 * 4), 1000 / (8 + 2), 1000 / 2, 1000 / (8 + 2 * 4)],
    }


@pytest.mark.parametrize("name", [name for name, question in ALL.items() if question["type"] == "numeric"])
def test_numbers_are_those_of_the_library(name: str) -> None:
    ranges = ALL[name]["answers"][:-1]
    assert [answer["correct"] for answer in ranges] == [True] + [False] * (len(ranges) - 1)
    for answer, value in zip(ranges, computed()[name], strict=True):
        low, high = answer["range"]
        assert low <= value < high, answer["feedback"]


# --- what they claim: choices, where a few lines can tell


def test_claim_1_pair() -> None:
    t = torch.tensor([7.0], dtype=torch.float64)
    right = sinusoidal_embedding(t, 8, layout="interleaved")[0, 5]
    torch.testing.assert_close(right, torch.cos(t / 100)[0])


def test_claim_1_shift() -> None:
    e = sinusoidal_embedding(torch.tensor([3.0, 10.0, 503.0, 510.0]).double(), 32)
    torch.testing.assert_close(e[0] @ e[1], e[2] @ e[3])


def test_claim_2_shared_shift_and_attention() -> None:
    torch.manual_seed(0)
    x, norm = torch.randn(2, 16, 4, 4).double(), nn.GroupNorm(8, 16).double()
    shift = torch.arange(8).double().repeat_interleave(2)[:, None, None]
    torch.testing.assert_close(norm(x + shift), norm(x))
    assert (norm(x + torch.arange(16).double()[:, None, None]) - norm(x)).abs().max() > 0.1
    attend, order = AttentionBlock(16).double(), torch.randperm(16)
    shuffled = x.flatten(2)[:, :, order].reshape(x.shape)
    torch.testing.assert_close(attend(shuffled).flatten(2), attend(x).flatten(2)[:, :, order])


def test_claim_3_square_root() -> None:
    beta, variance = 0.01, 5.0
    for _ in range(2000):
        variance = (1 - beta) ** 2 * variance + beta
    assert math.isclose(variance, 1 / (2 - beta))
    assert abs(variance - 0.5) < 0.01


def test_claim_3_way_back() -> None:
    schedule = schedules.LinearSchedule(1000)
    assert schedule.posterior_coefficients(0).variance == 0
    assert schedule.posterior_coefficients(0).x0 == 1


def test_claim_4_half_of_the_weight_is_early() -> None:
    weights = diffusion.vlb_weights(schedules.LinearSchedule(1000))
    assert 0.2 < weights[:10].sum() / weights.sum() < 0.3


def test_claim_5_facts() -> None:
    schedule, (x_0, x_t, xi) = schedules.LinearSchedule(1000), torch.randn(3, 5, 2, dtype=torch.float64)
    one = samplers.ddim_step(x_0, x_t, 500, 300, schedule, xi, eta=1.0)
    torch.testing.assert_close(one, samplers.ddpm_step(x_0, x_t, 500, 300, schedule, xi, variance="posterior"))


def test_claim_6_untracked_and_detached() -> None:
    with pytest.raises(RuntimeError, match="does not require grad"):
        (torch.tensor(2.0) ** 2).backward()
    x, backbone, head = torch.ones(1, 2, requires_grad=True), nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 1)
    head(backbone(x).detach()).sum().backward()
    assert x.grad is None
    head(backbone(x)).sum().backward()
    assert x.grad is not None


def test_claim_9_ddpm() -> None:
    x, guess = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    eps, sigma = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64), 0.7
    generator = torch.Generator().manual_seed(3)
    matching = ebm.denoising_score_matching_loss(lambda z, sigma: -guess / 0.7, x, sigma, generator)
    torch.testing.assert_close(sigma**2 * matching, ((eps - guess) ** 2).sum(1).mean() / 2)


def test_claim_10_master() -> None:
    weight = torch.tensor(1.0, dtype=torch.bfloat16)
    for _ in range(1000):
        weight = weight - torch.tensor(1e-3, dtype=torch.bfloat16)
    assert weight == 1


def test_claim_12_halfway() -> None:
    assert math.isclose(math.hypot(0.5, 0.5), 0.71, abs_tol=0.005)


# --- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from launched()


REPLY = """(question, given) => {
  const inputs = [...question.querySelectorAll("input")];
  if (typeof given === "string") inputs[0].value = given;
  else inputs.forEach((input, k) => { if (input.checked !== given.includes(k)) input.click(); });
  question.querySelector("button").click();
  const verdict = question.querySelector("[role=status]");
  return [verdict.dataset.mark, verdict.textContent];
}"""


def radio_or_boxes(name: str) -> list[tuple[list[int], str, list[str]]]:
    """What to choose, the mark that it gets, and what must be said."""
    found = ALL[name]["answers"]
    right = [k for k, answer in enumerate(found) if answer["correct"]]
    said = [plain(answer["feedback"]) for answer in found]
    wrong = [([k], "wrong", [said[k]]) for k in range(len(found)) if k not in right]
    if ALL[name]["type"] == "many_choice":
        wrong += [([*right, k], "wrong", [said[k]]) for k in range(len(found)) if k not in right]
        wrong += [(right[1:], "wrong", ["is missing"])] if len(right) > 1 else []
    return [*wrong, (right, "right", said)]  # in the end the others are explained, too


def numbers(name: str) -> list[tuple[str, str, list[str]]]:
    *ranges, default = ALL[name]["answers"]
    given = [(f"{middle(a):.8g}", "right" if a["correct"] else "wrong", [plain(a["feedback"])]) for a in ranges]
    far = f"{10 * max(abs(end) for a in ranges for end in a['range']) + 7:.8g}"
    return [*given[1:], (far, "wrong", [plain(default["feedback"])]), ("many", "", ["one number"]), given[0]]


@pytest.mark.browser
@each_lesson
def test_every_answer_gets_its_reply(browser: Any, lesson: int, tmp_path: Path) -> None:
    with watched(browser) as page:
        page.goto(write_quiz_page(lesson, tmp_path / "quiz.html"))
        for question in quizzes.load(lesson):
            name = question["id"]
            place = page.locator(f"[id='quiz-{name}']")
            assert plain(question["question"]) in place.locator(".quiz-text").text_content()
            assert not place.locator("details").count(), "answers show before they are given"
            for given, mark, words in (numbers if question["type"] == "numeric" else radio_or_boxes)(name):
                got, said = place.evaluate(REPLY, given)
                assert got == mark, (name, given)
                assert all(word in said for word in words), (name, given, said)
        n = len(quizzes.load(lesson))
        assert page.locator(".quiz-score").text_content() == f"{n} of {n} right"
        record = page.evaluate("lesson => Course.progress.lesson(lesson).questions", lesson)
        assert sorted(record) == sorted(question["id"] for question in quizzes.load(lesson))
        assert all(answer["right"] and answer["tries"] > 1 for answer in record.values())


@pytest.mark.browser
def test_a_quiz_works_by_keyboard(browser: Any, tmp_path: Path) -> None:
    with watched(browser) as page:
        page.goto(write_quiz_page(3, tmp_path / "quiz.html"))
        one, number = page.locator(".quiz-question").nth(0), page.locator(".quiz-question").nth(1)
        page.keyboard.press("Tab")
        right = [answer["correct"] for answer in ALL["3-square-root"]["answers"]].index(True)
        page.keyboard.press("Space")
        for _ in range(right):
            page.keyboard.press("ArrowDown")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert one.get_by_role("status").text_content().startswith("Right.")
        assert one.get_by_role("radiogroup").get_attribute("aria-labelledby")
        number.get_by_role("textbox").focus()
        page.keyboard.type("4/2")
        page.keyboard.press("Enter")
        assert number.get_by_role("status").text_content().startswith("Right.")
        assert mark_of(number) == '"✓ answered"'
        page.keyboard.press("Control+a")
        page.keyboard.type("999")
        page.keyboard.press("Enter")
        assert number.get_by_role("status").text_content().startswith("Not this number.")
        assert mark_of(number) == '"✓ answered before"', "no mark of success stands above a wrong answer"
        page.get_by_role("button", name="Start again").click()
        assert page.locator("input:checked").count() == 0
        assert page.locator(".quiz-score").text_content() == "0 of 6 right, 2 more before"
        assert page.locator("[data-known]").count() == 2, "what was answered once stays known"


def mark_of(question: Any) -> str:
    """What stands at the corner of a question, in quotation marks as CSS keeps it."""
    return question.evaluate("element => getComputedStyle(element, '::after').content")


@pytest.mark.browser
def test_numbers_may_be_written_in_many_ways(browser: Any, tmp_path: Path) -> None:
    ways = {"0.25": 0.25, " 1/4": 0.25, "0,25": 0.25, "25e-2": 0.25, ".25": 0.25, "−3": -3, "-1/2": -0.5, "2.": 2}
    with watched(browser) as page:
        page.goto(write_quiz_page(3, tmp_path / "quiz.html"))
        read = "texts => texts.map(Course.parseNumber)"
        assert page.evaluate(read, list(ways)) == list(ways.values())
        assert all(math.isnan(x) for x in page.evaluate(read, ["", "two", "1/0", "1/2/3", "0x10", "1 2", "Infinity"]))
        assert page.evaluate(read, ["1,5/2,5"]) == [0.6]


@pytest.mark.browser
def test_thousands_may_be_set_apart(browser: Any, tmp_path: Path) -> None:
    """As the course writes them; and a comma may still be that of decimals."""
    with watched(browser) as page:
        page.goto(write_quiz_page(2, tmp_path / "quiz.html"))
        for given in ("73,856", "73 856", "73\u202f856", "73856"):
            assert page.locator("[id='quiz-2-parameters']").evaluate(REPLY, given)[0] == "right", given
        assert page.locator("[id='quiz-2-parameters']").evaluate(REPLY, "73,8")[0] == "wrong"


@pytest.mark.browser
@pytest.mark.parametrize("look", LOOKS)
def test_a_quiz_is_accessible(browser: Any, look: str, tmp_path: Path) -> None:
    """Before and after answers, by axe-core; and it fits."""
    with watched(browser, **LOOKS[look]) as page:
        page.goto(write_quiz_page(3, tmp_path / "quiz.html", "dark" if look == "dark" else "light"))
        assert barriers(page) == []
        for name in ("3-square-root", "3-way-back", "3-sigma"):
            cases = (numbers if name == "3-sigma" else radio_or_boxes)(name)
            page.locator(f"[id='quiz-{name}']").evaluate(REPLY, cases[0 if name == "3-sigma" else -1][0])
        page.locator("summary").first.click()
        assert barriers(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.browser
def test_without_scripts_answers_unfold(browser: Any, tmp_path: Path) -> None:
    with watched(browser, java_script_enabled=False) as page:
        page.goto(write_quiz_page(3, tmp_path / "quiz.html"))
        answer = page.locator(".quiz-answer").first
        assert not answer.locator("p").is_visible()
        answer.locator("summary").click()
        assert answer.locator("p").is_visible()


# --- the package whose format it is


@pytest.mark.browser
def test_jupyterquiz_shows_our_questions(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All right answers of a lesson, and a wrong one, in the package's own form."""
    display = pytest.importorskip("jupyterquiz.dynamic.display")
    shown: list[Any] = []
    monkeypatch.setattr(display, "display", shown.append)
    display.display_quiz(quizzes.load(3))
    body, script = (part.data for part in shown)
    text = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>q</title>{body}<script>{script}</script>'
    (tmp_path / "quiz.html").write_text(text, "utf-8")
    with watched(browser) as page:
        page.goto((tmp_path / "quiz.html").as_uri())
        assert page.locator(".Quiz").count() == 6
        for number, question in enumerate(quizzes.load(3)):
            box = page.locator(".Quiz").nth(number)
            if question["type"] == "numeric":
                box.locator("input").fill(str(middle(question["answers"][0])))
                box.locator("input").press("Enter")
            else:
                for label in box.locator("label[data-correct=true]").all():
                    label.click()
            assert "correct" in box.locator(".Feedback").get_attribute("class").split(), question["id"]
        page.locator("label[data-correct=false]").first.click()
        assert "incorrect" in page.locator(".Feedback").first.get_attribute("class").split()
