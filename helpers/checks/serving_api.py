"""Checks of lesson 14: server-sent events, back-off, a latency target, validation, batching."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ._core import Mistake, NotAttempted, check, expect_scalar

__all__ = ["back_off", "batching", "parse_events", "promise", "validate"]


def _expect_list(value: Any, name: str) -> list[Any]:
    """A list, or what a list can be made of; says what came instead."""
    if value is Ellipsis:
        raise NotAttempted
    if value is None:
        raise Mistake("returned-none", f"got None for {name}. Does your function end with a `return`?")
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise Mistake("wrong-type", f"{name} should be a list, got {type(value).__name__}.")
    return list(value)


# 14.1 ----------------------------------------------------------------------------------------------------------------

Event = tuple[str, str]


def _events_of(parse: Callable[[Sequence[str]], Any], lines: Sequence[str]) -> list[Event]:
    got = _expect_list(parse(list(lines)), "the events")
    for event in got:
        if not isinstance(event, Sequence) or isinstance(event, str) or len(event) != 2:
            raise Mistake("wrong-type", f"each event should be a pair (event, data), got {event!r}.")
        if not all(isinstance(part, str) for part in event):
            raise Mistake("wrong-type", f"name and data should both be strings, got {tuple(event)!r}.")
    return [(name, data) for name, data in got]


# Each case tests one rule, after those before it: lines, the events, {what a mistake gives: (its name, advice)}.
_STREAMS: tuple[tuple[list[str], list[Event], list[tuple[str, list[Event], str]]], ...] = (
    (
        ["event: tick", "data: 1", "", "event: tock", "data: 2", ""],
        [("tick", "1"), ("tock", "2")],
        [
            ("names-and-data-swapped", [("1", "tick"), ("2", "tock")], "the name of the event comes first."),
            ("only-first", [("tick", "1")], "only the first event came back: go on after an empty line."),
            ("only-last", [("tock", "2")], "only the last event came back: keep each one at its empty line."),
            ("trailing-newline", [("tick", "1\n"), ("tock", "2\n")], "the newlines stand *between* data lines."),
            ("space-kept", [(" tick", " 1"), (" tock", " 2")], "one space after the colon belongs to nobody."),
        ],
    ),
    (
        ["data: a: b", ""],
        [("message", "a: b")],
        [
            ("no-default-name", [("", "a: b")], 'an event without an `event` line is a "message".'),
            ("split-at-every-colon", [("message", "a")], "only the *first* colon of a line ends the field."),
            ("split-at-every-colon", [("message", " b")], "only the *first* colon of a line ends the field."),
            ("split-at-every-colon", [("message", "b")], "only the *first* colon of a line ends the field."),
        ],
    ),
    (
        ["event: tick", "data: 1", "", "data: 2", ""],
        [("tick", "1"), ("message", "2")],
        [("name-not-reset", [("tick", "1"), ("tick", "2")], "the name holds for one event: forget it afterwards.")],
    ),
    (
        ["data:  two", "data:none", "data", ""],
        [("message", " two\nnone\n")],
        [
            ("last-data-only", [("message", "")], 'several `data` lines belong together, joined by "\\n".'),
            ("first-data-only", [("message", " two")], 'several `data` lines belong together, joined by "\\n".'),
            ("joined-without-newline", [("message", " twonone")], '`data` lines are joined by "\\n".'),
            ("all-spaces-stripped", [("message", "two\nnone\n")], "*one* space is removed; a second one is content."),
            ("space-demanded", [("message", " two")], "the space after the colon may be missing: `data:none`."),
            ("space-demanded", [("message", " two\n")], "the space after the colon may be missing: `data:none`."),
            (
                "colon-demanded",
                [("message", " two\nnone")],
                "`data` without a colon is a data line with nothing in it.",
            ),
        ],
    ),
    (
        [": keep-alive", "", "event: lost", "", "id: 7", "data: 1", ": note", "retry: 10", ""],
        [("message", "1")],
        [
            (
                "event-without-data",
                [("message", ""), ("lost", ""), ("message", "1")],
                "an event without a `data` line is dropped.",
            ),
            ("event-without-data", [("lost", ""), ("message", "1")], "an event without a `data` line is dropped."),
            ("name-not-reset", [("lost", "1")], "an event that is dropped takes its name along."),
            ("comment-as-data", [("message", "keep-alive"), ("message", "1\nnote")], "a comment is no data."),
            ("comment-as-data", [("message", " keep-alive"), ("message", "1\n note")], "a comment is no data."),
        ],
    ),
    (
        ["data", "", "data", "data", "", "data:", ""],
        [("message", ""), ("message", "\n"), ("message", "")],
        [
            (
                "empty-data-dropped",
                [("message", "\n")],
                "a `data` line with nothing in it is a `data` line: ask how many there were, not what they hold.",
            ),
            (
                "empty-data-dropped",
                [],
                "a `data` line with nothing in it is a `data` line: ask how many there were, not what they hold.",
            ),
        ],
    ),
    (
        ["data: 1", "", "data: 2"],
        [("message", "1")],
        [
            (
                "unfinished-event",
                [("message", "1"), ("message", "2")],
                "the last event never saw its empty line: the connection broke in the middle of it. Drop it.",
            )
        ],
    ),
    (
        ["event: tick", "event:", "data: 1", "", "event", "data: 2", ""],
        [("message", "1"), ("message", "2")],
        [
            ("empty-name-kept", [("", "1"), ("", "2")], 'an event whose name is empty is a "message" too.'),
            (
                "empty-name-ignored",
                [("tick", "1"), ("message", "2")],
                "the last `event` line counts, an empty one too.",
            ),
        ],
    ),
)


@check("14.1", "The whole of server-sent events")
def parse_events(parse: Callable[[Sequence[str]], Any]) -> str:
    """Check ``parse(lines)``."""
    for lines, right, mistakes in _STREAMS:
        got = _events_of(parse, lines)
        if got == right:
            continue
        for name, wrong, advice in mistakes:
            if got == wrong:
                raise Mistake(name, advice)
        raise Mistake("wrong-value", f"of the lines {lines} the events are {right}, got {got}.")
    if got_empty := _events_of(parse, []):
        raise Mistake("wrong-value", f"an empty stream has no events, got {got_empty}.")
    return "the whole standard, but for reconnecting."


# 14.2 ----------------------------------------------------------------------------------------------------------------


def _wrong_delays(attempt: int, asked: float, u: float, base: float, cap: float) -> dict[str, tuple[float, str]]:
    full = min(cap, base * 2**attempt)
    return {
        "no-jitter": (asked + full, "nothing here is random: everybody comes back together. Use `uniform()`."),
        "retry-after-ignored": (u * full, "the service has said how long to wait at least: add `retry_after`."),
        "cap-forgotten": (asked + u * base * 2**attempt, "the back-off must not exceed `cap`."),
        "cap-after-the-draw": (
            asked + min(cap, u * base * 2**attempt),
            "you cap after the draw: with a large back-off almost everybody then waits exactly `cap`, together.",
        ),
        "cap-on-everything": (
            min(cap, asked + u * base * 2**attempt),
            "the cap is for the back-off; the time that the service asked for is waited in any case.",
        ),
        "larger-of-the-two": (
            max(asked, u * full),
            "with the larger of the two, all with a small jitter come back at `retry_after`, together: add them.",
        ),
        "everything-random": (
            u * (asked + full),
            "`retry_after` is random here too: some come back before the service asked them to.",
        ),
        "equal-jitter": (
            asked + full / 2 + u * full / 2,
            "half of the back-off is fixed: *full* jitter is random from nothing on.",
        ),
        "one-doubling-too-many": (
            asked + u * min(cap, base * 2 ** (attempt + 1)),
            "at the first refusal, attempt 0, the back-off is `base` itself.",
        ),
        "linear": (
            asked + u * min(cap, base * (attempt + 1)),
            "the back-off grows by addition; it should double with each refusal.",
        ),
        "base-to-the-power": (asked + u * min(cap, base**attempt), "it is `base * 2**attempt`, not `base**attempt`."),
        "jitter-around": (
            asked + full * (0.5 + u),
            "this is the back-off give or take a half; full jitter is between nothing and the back-off.",
        ),
    }


@check("14.2", "Come back at random")
def back_off(delay: Callable[..., Any]) -> str:
    """Check ``delay(attempt, retry_after, uniform, base, cap)``."""
    cases = (
        (3, 2.0, 0.25, 0.5, 30.0),
        (0, 1.0, 0.75, 0.5, 30.0),
        (1, 3.0, 0.3, 0.7, 30.0),
        (9, 4.0, 0.125, 0.5, 30.0),
        (5, 0.0, 0.9, 1.5, 11.0),
        (7, 40.0, 0.5, 1.0, 10.0),
    )
    given, draws = [], 0
    for attempt, asked, u, base, cap in cases:
        drawn = []

        def uniform(u: float = u, drawn: list[float] = drawn) -> float:
            drawn.append(u)
            return u

        value = expect_scalar(delay(attempt, asked, uniform, base, cap), "the delay")
        if len(drawn) > 1:
            raise Mistake("drawn-twice", "call `uniform()` once: the sum or product of two draws is not uniform.")
        draws += len(drawn)
        given.append((value, (attempt, asked, u, base, cap)))

    def right(attempt: int, asked: float, u: float, base: float, cap: float) -> float:
        return asked + u * min(cap, base * 2**attempt)

    if all(math.isclose(value, right(*case), rel_tol=1e-6) for value, case in given):
        return "polite to the service, and unpredictable to the other clients."
    for name, (_, advice) in _wrong_delays(*cases[0]).items():
        if all(math.isclose(value, _wrong_delays(*case)[name][0], rel_tol=1e-6) for value, case in given):
            raise Mistake(name, advice)
    if not draws:
        raise Mistake("uniform-not-called", "the chance should come from `uniform()`, which your function never calls.")
    value, case = next((v, c) for v, c in given if not math.isclose(v, right(*c), rel_tol=1e-6))
    raise Mistake(
        "wrong-value",
        "for attempt {}, retry_after {}, a draw of {}, base {} and cap {}".format(*case)
        + f" the delay is {right(*case):.4g}, got {value:.4g}.",
    )


# 14.3 ----------------------------------------------------------------------------------------------------------------

Case = tuple[float, float, int, float, float, float]
_WRONG_BATCHES: dict[str, tuple[Callable[..., float], str]] = {
    "batch-rounded-up": (
        lambda a, b, steps, target, *_: math.ceil((target / steps - a) / b),
        "rounding the batch up breaks the promise by a little: round down.",
    ),
    "steps-forgotten": (
        lambda a, b, steps, target, *_: math.floor((target - a) / b),
        "a picture needs `steps` evaluations: each may take target / steps.",
    ),
    "fixed-cost-forgotten": (
        lambda a, b, steps, target, *_: math.floor(target / steps / b),
        "the fixed cost `a` of each evaluation is missing.",
    ),
    "fixed-cost-once": (
        lambda a, b, steps, target, *_: math.floor((target - a) / (steps * b)),
        "the fixed cost `a` is paid at every step, not once.",
    ),
    "batch-not-rounded": (
        lambda a, b, steps, target, *_: (target / steps - a) / b,
        "a batch has a whole number of pictures: round down.",
    ),
}


def _is_integer(number: Any) -> bool:
    """Whether it is an integer by its type: Python's, NumPy's, or a tensor's."""
    return type(getattr(number, "item", lambda: number)()) is int


def _rate(batch: float, a: float, b: float, steps: int) -> float:
    return batch / (steps * (a + b * batch))


_WRONG_REPLICAS: dict[str, tuple[Callable[..., float], str]] = {
    "replicas-rounded-down": (
        lambda batch, a, b, steps, arrivals, share: math.floor(arrivals / (share * _rate(batch, a, b, steps))),
        "rounding down leaves work that nobody does: round the replicas up.",
    ),
    "utilisation-forgotten": (
        lambda batch, a, b, steps, arrivals, share: math.ceil(arrivals / _rate(batch, a, b, steps)),
        "these replicas would be busy all of the time: only the share `utilisation` of it counts.",
    ),
    "utilisation-upside-down": (
        lambda batch, a, b, steps, arrivals, share: math.ceil(arrivals * share / _rate(batch, a, b, steps)),
        "a lower utilisation needs *more* replicas: divide by it.",
    ),
    "one-picture-at-a-time": (
        lambda batch, a, b, steps, arrivals, share: math.ceil(arrivals * steps * (a + b * batch) / share),
        "a replica finishes a whole batch in the time that you count for one picture.",
    ),
    "batch-of-one": (
        lambda batch, a, b, steps, arrivals, share: math.ceil(arrivals * steps * (a + b) / share),
        "this is the rate of batches of one; each replica works with the batch that you found.",
    ),
    "steps-forgotten-in-the-rate": (
        lambda batch, a, b, steps, arrivals, share: math.ceil(arrivals * (a + b * batch) / (share * batch)),
        "this counts evaluations, not pictures: a picture takes `steps` of them.",
    ),
    "ceiling-rate": (
        lambda batch, a, b, steps, arrivals, share: math.ceil(arrivals * steps * b / share),
        "1/b is the rate of infinitely large batches: yours still pay the fixed cost.",
    ),
}


@check("14.3", "A promise about time")
def promise(plan: Callable[..., Any]) -> str:
    """Check ``plan(a, b, steps, target, arrivals, utilisation)``."""
    cases: tuple[Case, ...] = (
        (0.063, 0.0013, 10, 1.0, 2_000.0, 0.6),
        (0.02, 0.0007, 10, 0.75, 5_000.0, 0.7),
        (0.011, 0.0045, 35, 2.1, 75.0, 0.8),
    )
    for case in cases:
        a, b, steps, target, arrivals, share = case
        got = _expect_list(plan(*case), "the plan")
        if len(got) != 2:
            raise Mistake("wrong-shape", f"the plan should be two numbers, batch and replicas; got {len(got)}.")
        batch, replicas = (
            expect_scalar(number, name)
            for number, name in zip(got, ("the batch", "the number of replicas"), strict=True)
        )
        best = math.floor((target / steps - a) / b)
        enough = math.ceil(arrivals / (share * _rate(best, a, b, steps)))
        if (batch, replicas) == (enough, best):
            raise Mistake("swapped", "first the batch, then the replicas.")
        if batch != best:
            for name, (wrong, advice) in _WRONG_BATCHES.items():
                if math.isclose(batch, wrong(*case), rel_tol=1e-6):
                    raise Mistake(name, advice)
            raise Mistake("wrong-batch", f"for {case} the largest batch is {best}, got {batch:g}.")
        if replicas != enough:
            for name, (wrong, advice) in _WRONG_REPLICAS.items():
                if math.isclose(replicas, wrong(best, a, b, steps, arrivals, share), rel_tol=1e-6):
                    raise Mistake(name, advice)
            if math.ceil(replicas) == enough:
                raise Mistake("replicas-not-rounded", "there are no fractions of a machine: round the replicas up.")
            raise Mistake("wrong-value", f"for {case} the plan needs {enough} replicas, got {replicas:g}.")
        if not all(map(_is_integer, got)):
            raise Mistake("floats", f"pictures and machines are counted: return two integers, got {tuple(got)!r}.")
    return "as many as needed, with room for a bad minute."


# 14.4 ----------------------------------------------------------------------------------------------------------------


def _found(mistakes: Callable[..., Any], body: Mapping[str, Any], limits: Mapping[str, Any]) -> list[dict[str, Any]]:
    given, allowed = copy.deepcopy(dict(body)), copy.deepcopy(dict(limits))
    try:
        got = mistakes(given, allowed)
    except NotImplementedError:
        raise
    except Exception as error:
        text = f"your function raised {type(error).__name__} for {dict(body)}; it should *return* all mistakes."
        raise Mistake("raised-instead", text) from None
    found = _expect_list(got, "the mistakes")
    if given != body or allowed != limits:
        raise Mistake("argument-changed", "your function changed the body or the limits it was given.")
    for one in found:
        if not isinstance(one, Mapping) or set(one) != {"field", "limit", "value"}:
            raise Mistake("wrong-keys", f'each mistake should have the keys "field", "limit" and "value", got {one!r}.')
    return [dict(one) for one in found]


def _same(got: Sequence[Mapping[str, Any]], right: Sequence[Mapping[str, Any]]) -> bool:
    """Equal, where a pair may be a list, and True is not 1."""

    def plain(one: Mapping[str, Any]) -> tuple[Any, ...]:
        limit = one["limit"]
        value = one["value"]
        listed = list(limit) if isinstance(limit, Sequence) and not isinstance(limit, str) else limit
        return one["field"], listed, type(value), value

    return [plain(one) for one in got] == [plain(one) for one in right]


_LIMITS = {"n": (1, 36), "steps": (1, 100), "seed": (0, 2**53 - 1)}


def _wrong(field: str, limit: Any, value: Any) -> dict[str, Any]:
    return {"field": field, "limit": limit, "value": value}


def _expect_no_mistake(mistakes: Callable[..., Any]) -> None:
    for body in ({}, {"n": 4, "steps": 20, "seed": 7}):
        if _found(mistakes, body, _LIMITS):
            raise Mistake("right-refused", f"there is nothing wrong with {body}: the list should be empty.")
    for body in ({"n": 36, "steps": 100}, {"n": 1, "steps": 1, "seed": 0}):
        if _found(mistakes, body, _LIMITS):
            raise Mistake("limits-excluded", f"both limits are allowed values: nothing is wrong with {body}.")


@check("14.4", "Say what is wrong")
def validate(mistakes: Callable[..., Any]) -> str:
    """Check ``mistakes(body, limits)``."""
    _expect_no_mistake(mistakes)
    singles = (
        ("n", 37, (1, 36), "upper-limit-missing", "values above the upper limit pass."),
        ("steps", 0, (1, 100), "lower-limit-missing", "values below the lower limit pass."),
        ("stepz", 20, list(_LIMITS), "unknown-accepted", "an unknown field passes: a spelling mistake goes unnoticed."),
        ("n", True, "integer", "boolean-accepted", "`true` passes as 1: in Python a boolean is an int. Use `type`."),
        ("n", "4", "integer", "string-converted", '"4" passes: it is a string, and nothing is to be converted.'),
        ("n", 4.0, "integer", "float-converted", "4.0 passes: it is a float, and nothing is to be converted."),
        ("seed", None, "integer", "null-accepted", "`null` passes: a field that is there holds an integer."),
    )
    for field, value, limit, name, advice in singles:
        found = _found(mistakes, {field: value}, _LIMITS)
        if not found:
            raise Mistake(name, advice)
        if _same(found, [_wrong(field, limit, value)]):
            continue
        if len(found) > 1:
            raise Mistake("reported-twice", f"{ {field: value} } has one mistake, got {len(found)}.")
        raise _explained(found[0], field, value, limit)
    body = {"n": 0, "colour": 1, "steps": "9", "seed": -5}
    right = [_wrong("n", (1, 36), 0), _wrong("colour", list(_LIMITS), 1)]
    right += [_wrong("steps", "integer", "9"), _wrong("seed", (0, 2**53 - 1), -5)]
    found = _found(mistakes, body, _LIMITS)
    if _same(found, right[:1]):
        raise Mistake("first-only", "only the first mistake is told: whoever has four needs four attempts.")
    if not _same(found, right):
        if len(found) == len(right) and all(any(_same([a], [b]) for b in found) for a in right):
            raise Mistake("wrong-order", "all mistakes are there, but not in the order of the body.")
        raise Mistake("wrong-value", f"the mistakes of {body} are {right}, got {found}.")
    return "every mistake by name, with what is allowed and what came."


def _explained(one: Mapping[str, Any], field: str, value: Any, limit: Any) -> Mistake:
    """What is wrong with one report of one mistake."""
    if one["field"] != field:
        return Mistake("wrong-field", f'the mistake is in "{field}", got "{one["field"]}".')
    if type(one["value"]) is not type(value) or one["value"] != value:
        return Mistake("value-changed", f"`value` is what came, {value!r}, unchanged; got {one['value']!r}.")
    return Mistake("wrong-limit", f"for {field} = {value!r} the limit is {limit!r}, got {one['limit']!r}.")


# 14.5 ----------------------------------------------------------------------------------------------------------------

_QUEUES: tuple[tuple[list[tuple[str, int]], int, list[int], list[tuple[str, list[int], str]]], ...] = (
    (
        [("a", 2), ("a", 3), ("a", 1)],
        16,
        [0, 1, 2],
        [
            ("only-oldest", [0], "all three fit into one evaluation; only the oldest goes."),
            ("counts-from-one", [1, 2, 3], "indices count from 0."),
            ("sizes-returned", [2, 3, 1], "return the *indices* of the requests, not their sizes."),
            ("last-forgotten", [0, 1], "the last request is never looked at."),
        ],
    ),
    (
        [("a", 4), ("b", 4), ("a", 4)],
        16,
        [0, 2],
        [
            ("models-mixed", [0, 1, 2], "one evaluation is of one network: request 1 needs another model."),
            ("stops-at-other-model", [0], "requests to other models are passed over; those behind them may join."),
        ],
    ),
    (
        [("a", 6), ("a", 6), ("a", 4)],
        16,
        [0, 1, 2],
        [("capacity-excluded", [0, 1], "exactly `capacity` pictures fit.")],
    ),
    (
        [("a", 16), ("a", 3)],
        16,
        [0],
        [("oldest-not-counted", [0, 1], "the oldest request's own pictures count as well.")],
    ),
    (
        [("a", 10), ("a", 5), ("a", 4)],
        16,
        [0, 1],
        [
            ("over-capacity", [0, 1, 2], "these are more than `capacity` pictures: look before you add, not after."),
        ],
    ),
    (
        [("a", 10), ("a", 8), ("a", 2), ("b", 1)],
        16,
        [0],
        [
            ("overtaken", [0, 2], "request 2 overtakes request 1. A trickle of small ones would keep it for ever."),
            ("over-capacity", [0, 1], "these are more than `capacity` pictures: look before you add, not after."),
            ("over-capacity", [0, 1, 2], "these are more than `capacity` pictures."),
        ],
    ),
    (
        [("a", 30), ("a", 1)],
        16,
        [0],
        [
            ("large-one-starves", [], "a request larger than `capacity` would never run: the oldest always goes."),
            ("large-one-starves", [1], "a request larger than `capacity` would never run: the oldest always goes."),
        ],
    ),
    (
        [("b", 3), ("a", 1), ("b", 9), ("a", 2), ("b", 4), ("b", 1)],
        16,
        [0, 2, 4],
        [("counts-other-models", [0, 2], "pictures of other models take no room in this evaluation.")],
    ),
)


@check("14.5", "Who shares an evaluation?")
def batching(next_batch: Callable[[Sequence[tuple[str, int]], int], Any]) -> str:
    """Check ``next_batch(waiting, capacity)``."""
    for waiting, capacity, right, mistakes in _QUEUES:
        given = list(waiting)
        got = _expect_list(next_batch(given, capacity), "the indices")
        if any(isinstance(k, tuple) for k in got):
            raise Mistake("requests-returned", "return the *indices* of the requests, not the requests.")
        got = [int(expect_scalar(k, "an index")) for k in got]
        if given != waiting:
            raise Mistake("argument-changed", "your function changed the list of those who wait.")
        if got == right:
            continue
        if sorted(got) == right:
            raise Mistake("not-in-order", "the indices should come in the order of the queue.")
        for name, wrong, advice in mistakes:
            if got == wrong:
                raise Mistake(name, advice)
        raise Mistake("wrong-value", f"of {waiting} with capacity {capacity} the batch is {right}, got {got}.")
    try:
        empty = next_batch([], 16)
    except IndexError:
        raise Mistake(
            "empty-queue", "nobody waits, and your function raises IndexError: return an empty list."
        ) from None
    if _expect_list(empty, "the indices"):
        raise Mistake("empty-queue", "nobody waits: the batch is empty.")
    return "full batches, and nobody is forgotten."
