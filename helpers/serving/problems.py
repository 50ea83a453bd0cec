"""Errors as problem+json (RFC 9457): what is wrong in which field, what the limit is, and what came.

Nothing of the inside is ever told: no traceback, no path, and of a client's own values at most a short piece.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from .engine import Draining, QueueFull

__all__ = ["MEDIA_TYPE", "ProblemError", "install", "problem", "responses"]

MEDIA_TYPE = "application/problem+json"
LONGEST = 120
MOST_ERRORS = 20  # that are explained of one request

TITLES = {
    400: "The request cannot be read",
    404: "There is no such thing",
    405: "The method is not allowed here",
    408: "The body did not come in time",
    413: "The body is too large",
    415: "The media type is not supported",
    421: "The host is not served here",
    422: "The request asks for what cannot be done",
    429: "The queue is full",
    500: "The service has made a mistake",
    503: "The service takes no new requests",
}


class ProblemError(HTTPException):
    """An error with its fields.

    Args:
        status: HTTP status.
        detail: One sentence.
        field: What is wrong.
        limit: What is accepted.
        value: What came.
        headers: Of the answer.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        field: str | None = None,
        limit: Any = None,
        value: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.errors = [] if field is None else [_mistake(field, detail, limit, value)]


def _shown(value: Any, depth: int = 0) -> Any:
    """A value as JSON can hold it, shortened."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**63 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return value if len(value) <= LONGEST else value[:LONGEST] + "…"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, Mapping) and depth < 2 and len(value) <= 20:
        return {str(_shown(str(key))): _shown(item, depth + 1) for key, item in value.items()}
    if isinstance(value, Sequence) and depth < 2 and len(value) <= 20:
        return [_shown(item, depth + 1) for item in value]
    return f"{type(value).__name__} of {len(value)} items" if hasattr(value, "__len__") else type(value).__name__


def _mistake(field: str, message: str, limit: Any = None, value: Any = None) -> dict[str, Any]:
    return {"field": str(_shown(field)), "message": message, "limit": _shown(limit), "value": _shown(value)}


def problem(
    status: int, detail: str, errors: Iterable[Mapping[str, Any]] = (), headers: Mapping[str, str] | None = None
) -> Response:
    """An answer of the media type application/problem+json."""
    title = TITLES.get(status) or HTTPStatus(status).phrase
    slug = HTTPStatus(status).phrase.lower().replace(" ", "-")
    content = {"type": f"urn:problem:{slug}", "title": title, "status": status, "detail": detail}
    if errors := list(errors):
        content["errors"] = errors
    # ASCII with escapes: a lone surrogate that came in must not fail on its way out.
    return Response(json.dumps(content).encode("ascii"), status, headers, MEDIA_TYPE)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These errors, for the OpenAPI document."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        found[status] = {"description": TITLES[status], "content": {MEDIA_TYPE: schema}}
        if status in {429, 503}:
            found[status]["headers"] = {
                "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
            }
    return found


# ── what pydantic has found ───────────────────────────────────────────────

_BOUNDS = {"less_than_equal": ("le", "at most"), "greater_than_equal": ("ge", "at least")}
_TYPES = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a string",
    "bool_type": "true or false",
    "model_attributes_type": "a JSON object",
    "model_type": "a JSON object",
    "dict_type": "a JSON object",
}


def _json(value: Any) -> str:
    """A value as JSON writes it, shortened."""
    return json.dumps(_shown(value), ensure_ascii=False)


def _explained(error: Mapping[str, Any], known: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """One of pydantic's errors as a mistake; ``known`` has the fields of each model's requests."""
    kind, context, value = error["type"], error.get("ctx", {}), error.get("input")
    place = [str(part) for part in error["loc"]]
    where = place[0] if place else "body"
    model = place[1] if len(place) > 1 and place[1] in known else None
    rest = place[2:] if model else place[1:]
    field = ".".join(rest) or where
    if kind == "missing":
        allowed = sorted(known) if field == "model" else None
        expected = _one_of(allowed) if allowed is not None else "a JSON object" if field == "body" else field
        return _mistake(field, f"expected {expected}, got nothing", allowed)
    if kind in {"string_too_short", "string_too_long"} and field == "model":
        return _mistake(field, f"expected {_one_of(sorted(known))}, got {_json(value)}", sorted(known), value)
    if kind == "extra_forbidden":
        allowed = known.get(model) or next(iter(known.values()), [])
        if field in {"class", "guidance"} and model:
            return _mistake(field, f"expected no {field}: {model} knows no classes", list(allowed), value)
        return _mistake(field, f"expected only {', '.join(allowed)}, got an unknown field", list(allowed), value)
    if kind in {"union_tag_invalid", "union_tag_not_found"} or (kind == "literal_error" and field == "model"):
        value = value.get("model") if isinstance(value, Mapping) else value
        got = "nothing" if kind == "union_tag_not_found" else _json(value)
        return _mistake("model", f"expected {_one_of(sorted(known))}, got {got}", sorted(known), value)
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return _mistake(field, f"expected {words} {context[key]}, got {_shown(value)}", context[key], value)
    if kind in _TYPES:
        return _mistake(field, f"expected {_TYPES[kind]}, got {_kind_of(value)}", _TYPES[kind], value)
    if kind == "json_invalid":
        return _mistake("body", f"expected JSON: {context.get('error', 'it cannot be read')}", "JSON", None)
    if kind == "string_unicode":
        return _mistake(field, "expected a string that is Unicode, got half a character", "Unicode", value)
    limit = context.get("expected")
    limit = limit and limit.replace("'", '"')  # as JSON writes it
    message = f"expected {limit}, got {_json(value)}" if limit else str(error["msg"])
    return _mistake(field, message, limit, value)


def _one_of(names: Sequence[str]) -> str:
    return f"one of {', '.join(names)}" if names else "a model, of which there is none here"


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a string", bytes: "no JSON"}
    return kinds.get(type(value)) or ("an object" if isinstance(value, Mapping) else "an array")


def install(app: FastAPI, known: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    """Make an app answer every error that it foresees with problem+json; others are for ``guards.Interrupted``.

    Args:
        app: The app.
        known: Path → model → names of the fields of its requests, for what is said about unknown ones.
    """

    async def invalid(request: Request, error: RequestValidationError) -> Response:
        found = error.errors()
        errors = [_explained(one, known.get(request.url.path, {})) for one in found[:MOST_ERRORS]]
        status = 400 if any(one["type"] == "json_invalid" for one in found) else 422
        first = errors[0]
        return problem(status, f"{first['field']}: {first['message']}", errors)

    async def http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        errors = getattr(error, "errors", [])
        detail = str(error.detail)
        if not isinstance(error, ProblemError):
            field, allowed, value = None, None, None
            if error.status_code == 404:
                detail = "there is nothing at this address: see /docs"
                field, value = "address", request.url.path
            elif error.status_code == 405:
                allowed = headers.get("Allow") or headers.get("allow") or "another method"
                detail = f"expected {allowed}, got {request.method}"
                field, value = "method", request.method
            elif error.status_code == 400:  # FastAPI's, of a body that breaks the reader of JSON
                detail = "expected JSON in UTF-8, no deeper and with no longer numbers than can be read"
                field, allowed = "body", "JSON"
            if field:
                errors = [_mistake(field, detail, allowed, value)]
                detail = detail if field == "address" else f"{field}: {detail}"
        return problem(error.status_code, detail, errors, headers)

    async def full(request: Request, error: QueueFull) -> Response:
        detail = f"{error.waiting} requests are waiting: ask again in {error.retry_after} s"
        return problem(429, detail, headers={"Retry-After": str(error.retry_after)})

    async def draining(request: Request, error: Draining) -> Response:
        return problem(503, "the service is about to stop", headers={"Retry-After": "5", "Connection": "close"})

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(QueueFull, full)
    app.add_exception_handler(Draining, draining)
