"""How a notebook's printed output is compared with its stored one: same text, same integers, nearly the same floats.

Different processors round differently, so a trained network's third decimal may differ. Two outputs agree when

- the text around the numbers is the same (runs of blanks count as one),
- integers are equal,
- floats differ by at most :data:`ABSOLUTE` or by :data:`RELATIVE` of the stored value.
"""

from __future__ import annotations

import re

__all__ = ["ABSOLUTE", "RELATIVE", "Printed", "printed_alike"]

RELATIVE = 0.02
ABSOLUTE = 2e-3

_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d*\.\d+(?:e[-+]?\d+)?|\d+\.?e[-+]?\d+|\d+)", re.IGNORECASE)
# What may differ: figure sizes, addresses, ids of animations, pictures inside HTML (like PNG outputs: not compared).
_VARYING = [
    (re.compile(r"<Figure size .*? with .*?>"), "<Figure>"),
    (re.compile(r"\b0x[0-9a-f]{6,}\b"), "0x…"),
    (re.compile(r"[0-9a-f]{32}"), "id"),
    (re.compile(r"data:image/\w+;base64,[\w+/=\\\s]+"), "picture"),
]


def _parts(text: str) -> tuple[str, list[str]]:
    for pattern, replacement in _VARYING:
        text = pattern.sub(replacement, text)
    numbers = _NUMBER.findall(text)
    skeleton = re.sub(r"\s+", " ", _NUMBER.sub(" # ", text))
    return skeleton.strip(), numbers


def _is_integer(number: str) -> bool:
    return number.lstrip("+-").isdigit()


def _number_alike(stored: str, new: str) -> bool:
    if _is_integer(stored) or _is_integer(new):
        return stored == new
    return abs(float(stored) - float(new)) <= max(ABSOLUTE, RELATIVE * abs(float(stored)))


def printed_alike(stored: str, new: str) -> bool:
    """Whether two printed outputs agree within the stated tolerances."""
    (stored_text, stored_numbers), (new_text, new_numbers) = _parts(stored), _parts(new)
    return stored_text == new_text and all(map(_number_alike, stored_numbers, new_numbers))


class Printed(str):
    """A printed output; equality is :func:`printed_alike`, so that nbval's own comparison uses it."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return printed_alike(self, other) if isinstance(other, str) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return not self == other
