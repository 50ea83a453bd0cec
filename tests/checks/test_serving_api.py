"""Right answers pass, in several styles; each typical mistake is called by its name."""

import itertools
import math
import re

import numpy as np
import pytest
import torch

from helpers.checks import serving_api

# 14.1 ----------------------------------------------------------------------------------------------------------------


def parse_lines(lines):
    events, name, content = [], "message", []
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if content:
                events.append((name or "message", "\n".join(content)))
            name, content = "message", []
        elif field == "event":
            name = value
        elif field == "data":
            content.append(value)
    return events


def parse_blocks(lines):
    """By splitting the whole text, as a generator."""
    blocks = "".join(f"{line}\n" for line in lines).split("\n\n")[:-1]
    for block in blocks:
        fields = [re.fullmatch(r"([^:]*)(?:: ?(.*))?", line).groups("") for line in block.strip("\n").split("\n")]
        data = [value for field, value in fields if field == "data"]
        names = ["message", *(value for field, value in fields if field == "event")]
        if data:
            yield [names[-1] or "message", "\n".join(data)]


def parse_wrong(
    strip=lambda value: value.removeprefix(" "),
    default="message",
    join="\n".join,
    reset=True,
    reset_on_drop=True,
    keep_empty=False,
    keep_unfinished=False,
    split=lambda line: line.partition(":")[::2],
    fields=("data",),
    order=lambda name, data: (name, data),
    pick=lambda events: events,
    name_of=lambda name, default: name or default,
    rename=lambda name, value: value,
):
    def parse(lines):
        events, name, content = [], default, []
        for line in [*lines, *([""] if keep_unfinished else [])]:
            if line:
                field, value = split(line)
                name = rename(name, strip(value)) if field == "event" else name
                if field in fields:
                    content.append(strip(value))
                continue
            if content or (keep_empty and (lines and name != default)):
                events.append(order(name_of(name, default), join(content)))
            if (content and reset) or (not content and reset_on_drop):
                name = default
            content = []
        return pick(events)

    return parse


def colon_demanded(line):
    return line.split(":", 1) if ":" in line else (None, "")


def prefixes(line):
    """As the lesson's ten lines do it."""
    field, separator, value = line.partition(": ")
    return (field, value) if separator else (line if line == "data" else None, "")


WRONG_1 = {
    "names-and-data-swapped": parse_wrong(order=lambda name, data: (data, name)),
    "only-first": parse_wrong(pick=lambda events: events[:1]),
    "only-last": parse_wrong(pick=lambda events: events[-1:]),
    "space-kept": parse_wrong(strip=lambda value: value),
    "no-default-name": parse_wrong(default=""),
    "split-at-every-colon": parse_wrong(split=lambda line: (line.split(":")[0], line.split(":")[1])),
    "name-not-reset": parse_wrong(reset=False),
    "last-data-only": parse_wrong(join=lambda content: content[-1]),
    "first-data-only": parse_wrong(join=lambda content: content[0]),
    "joined-without-newline": parse_wrong(join="".join),
    "all-spaces-stripped": parse_wrong(strip=str.strip),
    "space-demanded": parse_wrong(split=prefixes, strip=lambda value: value),
    "colon-demanded": parse_wrong(split=colon_demanded),
    "trailing-newline": parse_wrong(join=lambda content: "".join(f"{line}\n" for line in content)),
    "event-without-data": parse_wrong(keep_empty=True),
    "comment-as-data": parse_wrong(fields=("data", "")),
    "empty-data-dropped": parse_wrong(pick=lambda events: [event for event in events if event[1]]),
    "unfinished-event": parse_wrong(keep_unfinished=True),
    "empty-name-kept": parse_wrong(name_of=lambda name, default: name),
    "empty-name-ignored": parse_wrong(rename=lambda name, value: value or name),
}

# 14.2 ----------------------------------------------------------------------------------------------------------------


def delay_closed(attempt, retry_after, uniform, base=0.5, cap=30.0):
    return retry_after + uniform() * min(cap, base * 2**attempt)


def delay_walked(attempt, retry_after, uniform, base=0.5, cap=30.0):
    back_off = base
    for _ in range(attempt):
        back_off = min(2 * back_off, cap)
    return torch.tensor(retry_after + np.multiply(min(back_off, cap), uniform()))


def delay_wrong(formula):
    def delay(attempt, retry_after, uniform, base=0.5, cap=30.0):
        return formula(attempt, retry_after, uniform(), base, cap)

    return delay


FORMULAS = {
    "no-jitter": lambda k, r, u, b, c: r + min(c, b * 2**k),
    "retry-after-ignored": lambda k, r, u, b, c: u * min(c, b * 2**k),
    "cap-forgotten": lambda k, r, u, b, c: r + u * b * 2**k,
    "cap-after-the-draw": lambda k, r, u, b, c: r + min(c, u * b * 2**k),
    "cap-on-everything": lambda k, r, u, b, c: min(c, r + u * b * 2**k),
    "larger-of-the-two": lambda k, r, u, b, c: max(r, u * min(c, b * 2**k)),
    "everything-random": lambda k, r, u, b, c: u * (r + min(c, b * 2**k)),
    "equal-jitter": lambda k, r, u, b, c: r + (1 + u) / 2 * min(c, b * 2**k),
    "one-doubling-too-many": lambda k, r, u, b, c: r + u * min(c, b * 2 ** (k + 1)),
    "linear": lambda k, r, u, b, c: r + u * min(c, b * (k + 1)),
    "base-to-the-power": lambda k, r, u, b, c: r + u * min(c, b**k),
    "jitter-around": lambda k, r, u, b, c: r + (0.5 + u) * min(c, b * 2**k),
}
WRONG_2 = {name: delay_wrong(formula) for name, formula in FORMULAS.items()} | {
    "uniform-not-called": lambda k, r, uniform, b, c: r + 0.37 * min(c, b * 2**k),
    "drawn-twice": lambda k, r, uniform, b, c: r + (uniform() + uniform()) / 2 * min(c, b * 2**k),
}

# 14.3 ----------------------------------------------------------------------------------------------------------------


def plan_closed(a, b, steps, target, arrivals, utilisation):
    batch = math.floor((target / steps - a) / b)
    rate = batch / (steps * (a + b * batch))
    return batch, math.ceil(arrivals / (utilisation * rate))


def plan_searched(a, b, steps, target, arrivals, utilisation):
    batch = max(n for n in range(1, 10_000) if steps * (a + b * n) <= target)
    seconds = steps * (a + b * batch)
    replicas = next(k for k in itertools.count(1) if k * utilisation * batch / seconds >= arrivals)
    return np.array([batch, replicas])


def plan_wrong(batch=None, replicas=None):
    def plan(a, b, steps, target, arrivals, utilisation):
        size = math.floor((target / steps - a) / b) if batch is None else batch(a, b, steps, target)
        rate = size / (steps * (a + b * size))
        many = arrivals / (utilisation * rate)
        return size, math.ceil(many) if replicas is None else replicas(many, size, a, b, steps, arrivals, utilisation)

    return plan


WRONG_3 = {
    "batch-rounded-up": plan_wrong(lambda a, b, steps, target: math.ceil((target / steps - a) / b)),
    "steps-forgotten": plan_wrong(lambda a, b, steps, target: math.floor((target - a) / b)),
    "fixed-cost-forgotten": plan_wrong(lambda a, b, steps, target: math.floor(target / steps / b)),
    "fixed-cost-once": plan_wrong(lambda a, b, steps, target: math.floor((target - a) / (steps * b))),
    "batch-not-rounded": plan_wrong(lambda a, b, steps, target: (target / steps - a) / b),
    "wrong-batch": plan_wrong(lambda *_: 3),
    "swapped": lambda *case: plan_closed(*case)[::-1],
    "replicas-rounded-down": plan_wrong(replicas=lambda many, *_: math.floor(many)),
    "replicas-not-rounded": plan_wrong(replicas=lambda many, *_: many),
    "utilisation-forgotten": plan_wrong(replicas=lambda many, *rest: math.ceil(many * rest[-1])),
    "utilisation-upside-down": plan_wrong(replicas=lambda many, *rest: math.ceil(many * rest[-1] ** 2)),
    "one-picture-at-a-time": plan_wrong(replicas=lambda many, size, *_: math.ceil(many * size)),
    "batch-of-one": plan_wrong(
        replicas=lambda many, size, a, b, steps, arrivals, u: math.ceil(arrivals * steps * (a + b) / u)
    ),
    "steps-forgotten-in-the-rate": plan_wrong(replicas=lambda many, size, a, b, steps, *_: math.ceil(many / steps)),
    "ceiling-rate": plan_wrong(
        replicas=lambda many, size, a, b, steps, arrivals, u: math.ceil(arrivals * steps * b / u)
    ),
    "wrong-shape": lambda *case: (*plan_closed(*case), 0),
    "floats": lambda *case: tuple(map(float, plan_closed(*case))),
}

# 14.4 ----------------------------------------------------------------------------------------------------------------


def mistakes_loop(body, limits):
    found = []
    for field, value in body.items():
        if field not in limits:
            limit = list(limits)
        elif type(value) is not int:
            limit = "integer"
        elif not limits[field][0] <= value <= limits[field][1]:
            limit = limits[field]
        else:
            continue
        found.append({"field": field, "limit": limit, "value": value})
    return found


def mistakes_yielded(body, limits):
    def limit_of(field, value):
        if field not in limits:
            return [*limits]
        if isinstance(value, bool) or not isinstance(value, int):
            return "integer"
        lowest, highest = limits[field]
        return None if value in range(lowest, highest + 1) else [lowest, highest]

    for field in body:
        if (limit := limit_of(field, body[field])) is not None:
            yield {"field": field, "limit": limit, "value": body[field]}


def mistakes_wrong(
    known=lambda value: type(value) is int,
    fits=lambda value, lowest, highest: lowest <= value <= highest,
    unknown=True,
    shown=lambda field, value, limit: {"field": field, "limit": limit, "value": value},
    pick=lambda found: found,
    convert=lambda value: value,
):
    def mistakes(body, limits):
        found = []
        for field, given in body.items():
            if field not in limits:
                if unknown:
                    found.append(shown(field, given, list(limits)))
                continue
            value = convert(given)
            if not known(value):
                found.append(shown(field, given, "integer"))
            elif value is not None and not fits(value, *limits[field]):
                found.append(shown(field, given, limits[field]))
        return pick(found)

    return mistakes


def raises_first(body, limits):
    found = mistakes_loop(body, limits)
    if found:
        raise ValueError(found[0])
    return []


def empties_the_body(body, limits):
    found = mistakes_loop(body, limits)
    body.clear()
    return found


def to_int(kind):
    return lambda value: int(value) if isinstance(value, kind) and str(value)[0].isdigit() else value


WRONG_4 = {
    "right-refused": lambda body, limits: [
        {"field": field, "limit": "integer", "value": body[field]} for field in body
    ],
    "limits-excluded": mistakes_wrong(fits=lambda value, lowest, highest: lowest < value < highest),
    "upper-limit-missing": mistakes_wrong(fits=lambda value, lowest, highest: lowest <= value),
    "lower-limit-missing": mistakes_wrong(fits=lambda value, lowest, highest: value <= highest),
    "unknown-accepted": mistakes_wrong(unknown=False),
    "boolean-accepted": mistakes_wrong(known=lambda value: isinstance(value, int)),
    "string-converted": mistakes_wrong(convert=to_int(str)),
    "float-converted": mistakes_wrong(convert=to_int(float)),
    "null-accepted": mistakes_wrong(known=lambda value: value is None or type(value) is int),
    "reported-twice": mistakes_wrong(pick=lambda found: found * 2),
    "first-only": mistakes_wrong(pick=lambda found: found[:1]),
    "wrong-order": mistakes_wrong(pick=lambda found: found[::-1]),
    "wrong-field": mistakes_wrong(shown=lambda f, v, limit: {"field": "body", "limit": limit, "value": v}),
    "value-changed": mistakes_wrong(shown=lambda f, v, limit: {"field": f, "limit": limit, "value": str(v)}),
    "wrong-limit": mistakes_wrong(shown=lambda f, v, limit: {"field": f, "limit": "see the manual", "value": v}),
    "wrong-keys": mistakes_wrong(shown=lambda f, v, limit: {"field": f, "limit": limit}),
    "raised-instead": raises_first,
    "argument-changed": empties_the_body,
}

# 14.5 ----------------------------------------------------------------------------------------------------------------


def batch_loop(waiting, capacity):
    if not waiting:
        return []
    batch, (model, total) = [0], waiting[0]
    for k, (other, n) in enumerate(waiting[1:], start=1):
        if other != model:
            continue
        if total + n > capacity:
            break
        batch.append(k)
        total += n
    return batch


def batch_summed(waiting, capacity):
    """By running totals of those with the oldest's model."""
    mine = [k for k, (model, _) in enumerate(waiting) if model == waiting[0][0]]
    totals = np.cumsum([waiting[k][1] for k in mine])
    fitting = sum(1 for total in totals if total <= capacity)
    return torch.tensor(mine[: max(1, fitting)])


def batch_wrong(
    other_model="pass",
    too_large="stop",
    fits=lambda total, n, capacity: total + n <= capacity,
    start=lambda n: n,
    oldest_always=True,
    count_others=False,
    answer=lambda batch, waiting: batch,
):
    def batch(waiting, capacity):
        if not waiting:
            return []
        chosen, model = [0], waiting[0][0]
        total = start(waiting[0][1])
        if not oldest_always and total > capacity:
            chosen, total = [], 0
        for k, (other, n) in enumerate(waiting[1:], start=1):
            if other != model and other_model == "pass":
                total += n if count_others else 0
                continue
            if other != model and other_model == "stop":
                break
            if fits(total, n, capacity):
                chosen.append(k)
                total += n
            elif too_large == "stop":
                break
        return answer(chosen, waiting)

    return batch


WRONG_5 = {
    "only-oldest": lambda waiting, capacity: [0],
    "counts-from-one": batch_wrong(answer=lambda batch, waiting: [k + 1 for k in batch]),
    "sizes-returned": batch_wrong(answer=lambda batch, waiting: [waiting[k][1] for k in batch]),
    "requests-returned": batch_wrong(answer=lambda batch, waiting: [waiting[k] for k in batch]),
    "last-forgotten": lambda waiting, capacity: batch_loop(waiting[:-1], capacity),
    "models-mixed": batch_wrong(other_model="join"),
    "stops-at-other-model": batch_wrong(other_model="stop"),
    "capacity-excluded": batch_wrong(fits=lambda total, n, capacity: total + n < capacity),
    "over-capacity": batch_wrong(fits=lambda total, n, capacity: total < capacity),
    "oldest-not-counted": batch_wrong(start=lambda n: 0),
    "overtaken": batch_wrong(too_large="skip"),
    "large-one-starves": batch_wrong(oldest_always=False),
    "counts-other-models": batch_wrong(count_others=True),
    "not-in-order": batch_wrong(answer=lambda batch, waiting: batch[::-1]),
    "argument-changed": lambda waiting, capacity: (batch_loop(waiting, capacity), waiting.clear())[0],
    "empty-queue": lambda waiting, capacity: batch_loop([waiting[0], *waiting[1:]], capacity),
}

RIGHT = {
    "14.1": [parse_lines, parse_blocks],
    "14.2": [delay_closed, delay_walked],
    "14.3": [plan_closed, plan_searched],
    "14.4": [mistakes_loop, mistakes_yielded],
    "14.5": [batch_loop, batch_summed],
}
WRONG = {"14.1": WRONG_1, "14.2": WRONG_2, "14.3": WRONG_3, "14.4": WRONG_4, "14.5": WRONG_5}
CHECKS = {
    "14.1": serving_api.parse_events,
    "14.2": serving_api.back_off,
    "14.3": serving_api.promise,
    "14.4": serving_api.validate,
    "14.5": serving_api.batching,
}


@pytest.mark.parametrize("number", CHECKS)
def test_unknown_mistakes_and_nothing_at_all(number):
    assert CHECKS[number](lambda *args: None).mistake == "returned-none"
    assert CHECKS[number](lambda *args: ...).status == "open"

    def stub(*args):
        raise NotImplementedError

    assert CHECKS[number](stub).status == "open"


@pytest.mark.parametrize(
    ("number", "answer", "mistake"),
    [
        ("14.1", lambda lines: "message", "wrong-type"),
        ("14.1", lambda lines: [{"message": "1"}], "wrong-type"),
        ("14.1", lambda lines: [("tick", 1)], "wrong-type"),
        ("14.1", lambda lines: [("tick", "1"), ("tack", "2")], "wrong-value"),
        ("14.1", lambda lines: parse_lines(lines) or [("message", "")], "wrong-value"),
        ("14.2", lambda k, r, uniform, b, c: 7.0 + uniform(), "wrong-value"),
        ("14.3", lambda *args: 7.0, "wrong-type"),
        ("14.3", plan_wrong(replicas=lambda *_: 12_345), "wrong-value"),
        ("14.4", lambda body, limits: True, "wrong-type"),
        ("14.4", lambda body, limits: mistakes_loop(body, limits)[:2], "wrong-value"),
        ("14.5", lambda waiting, capacity: 0, "wrong-type"),
        ("14.5", lambda waiting, capacity: [0, 1, 1, 2], "wrong-value"),
        ("14.5", lambda waiting, capacity: batch_loop(waiting, capacity) or [0], "empty-queue"),
    ],
)
def test_other_mistakes(number, answer, mistake):
    assert CHECKS[number](answer).mistake == mistake
