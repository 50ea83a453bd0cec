"""What stands before the app: limits of bodies, names of hosts, headers of answers, and counting. Plain ASGI.

A body is measured before it is read: by its Content-Length where there is one, and as it comes where there is none.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .metrics import Metrics
from .problems import LONGEST, ProblemError, problem

__all__ = ["BodyLimit", "Counted", "HeadAsGet", "HostCheck", "Interrupted", "SafeHeaders"]

logger = logging.getLogger(__name__)

PAGE_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
DOCS_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


class _Middleware:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self.http(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


class SafeHeaders(_Middleware):
    """An id on every answer, and headers that keep a browser from guessing, framing and loading from elsewhere."""

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers."""
        policy = DOCS_POLICY if scope["path"] == "/docs" else PAGE_POLICY
        number = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = number

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = number
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                headers["Content-Security-Policy"] = policy
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self.app(scope, receive, with_headers)


class HeadAsGet(_Middleware):
    """Answers HEAD wherever GET is answered, with the same headers and without the body; monitors ask so."""

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask for the whole, and send the beginning."""
        if scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        inner = {**scope, "method": "GET"}
        try:
            await self.app(inner, receive, without_body)
        finally:
            if "route" in inner:  # for those who count
                scope["route"] = inner["route"]


class Interrupted(_Middleware):
    """Says so to whoever is being served when the server breaks off the last requests, or when the service fails.

    Starlette would answer for a failure outside of all that stands before the app: without an id, headers or a count.
    """

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 503 in place of a task that was cancelled, and 500 in place of an error that nobody foresaw."""
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, noting)
        except asyncio.CancelledError:
            if not begun:
                answer = problem(503, "the service has stopped", headers={"Retry-After": "5", "Connection": "close"})
                await answer(scope, receive, send)
        except Exception:
            logger.exception("request %s has failed", scope["state"]["request_id"])
            if begun:
                raise  # the connection breaks off, so that nobody takes the answer for whole
            await problem(500, "the mistake has been written down, under the request's id")(scope, receive, send)


class Counted(_Middleware):
    """Counts answers and their times by route, not by address: an address is a client's word, and there are many.

    Args:
        app: What follows.
        metrics: Where to count.
        paths: Addresses that are known before there is a route, for requests that are refused early.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        super().__init__(app)
        self.metrics, self.paths = metrics, paths

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count one answer."""
        start, status = time.monotonic(), 499  # nobody was there any more

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            path = getattr(scope.get("route"), "path", scope["path"] if scope["path"] in self.paths else "other")
            method = scope["method"] if scope["method"] in {"GET", "POST", "HEAD", "OPTIONS"} else "other"
            self.metrics.requests.labels(method, path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.monotonic() - start)


class HostCheck(_Middleware):
    """Refuses names that the service does not have: a page elsewhere cannot reach a local service by a name of its own
    that it has pointed here (DNS rebinding).

    Args:
        app: What follows.
        hosts: Allowed names, without ports; empty for all.
        always: Addresses that are answered by whatever name.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], always: Collection[str] = ()) -> None:
        super().__init__(app)
        self.hosts, self.always = {host.lower() for host in hosts}, always

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let through, or refuse."""
        host = Headers(scope=scope).get("host", "").lower()
        name = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.split(":")[0]
        if self.hosts and name not in self.hosts and scope["path"] not in self.always:
            error = ProblemError(
                421,
                f"expected a host out of {', '.join(sorted(self.hosts))}, got {name or 'none'}",
                field="Host",
                limit=sorted(self.hosts),
                value=name,
            )
            await problem(421, f"Host: {error.detail}", error.errors)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class BodyLimit(_Middleware):
    """Limits the size of a body, the time that it takes to come, and what it may be.

    Args:
        app: What follows.
        limits: Path → (largest size in bytes, media types).
        other: The largest size elsewhere.
        seconds: Until the whole body must be there.
    """

    def __init__(
        self, app: ASGIApp, limits: Mapping[str, tuple[int, Sequence[str]]], other: int, seconds: float
    ) -> None:
        super().__init__(app)
        self.limits, self.other, self.seconds = limits, other, seconds

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse by the headers, or watch the body come."""
        limit, media_types = self.limits.get(scope["path"], (self.other, ()))
        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        given = headers.get("content-type", "").split(";")[0].strip().lower()
        refusal = None
        if not length.isascii() or not length.isdigit() or len(length) > 18:
            refusal = (400, "Content-Length", "a number of bytes", length)
        elif int(length) > limit:
            refusal = (413, "body", limit, int(length))
        elif media_types and scope["method"] == "POST" and given not in media_types:
            refusal = (415, "Content-Type", list(media_types), given)
        elif (encoding := headers.get("content-encoding", "identity").strip().lower()) not in {"identity", ""}:
            refusal = (415, "Content-Encoding", ["identity"], encoding)
        if refusal is not None:
            status, field, allowed, value = refusal
            words = {413: f"expected at most {limit} bytes, got {length}"}
            shown = ", ".join(allowed) if isinstance(allowed, list) else allowed
            error = ProblemError(
                status,
                words.get(status, f"expected {shown}, got {str(value)[:LONGEST] or 'nothing'}"),
                field=field,
                limit=allowed,
                value=value,
            )
            answer = problem(status, f"{field}: {error.detail}", error.errors, {"Connection": "close"})
            await answer(scope, receive, send)
            return
        await self.app(scope, self._measured(receive, limit), send)

    def _measured(self, receive: Receive, limit: int) -> Callable[[], Awaitable[Message]]:
        """``receive``, which raises a problem for a body that is too large or too slow."""
        size, whole, deadline = 0, False, time.monotonic() + self.seconds

        async def measured() -> Message:
            nonlocal size, whole
            if whole:  # what follows is news of the connection
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except TimeoutError as error:
                raise ProblemError(
                    408,
                    f"expected the whole body within {self.seconds:g} s",
                    field="body",
                    limit=self.seconds,
                    headers={"Connection": "close"},
                ) from error
            size += len(message.get("body", b""))
            whole = message["type"] != "http.request" or not message.get("more_body", False)
            if size > limit:
                raise ProblemError(
                    413,
                    f"expected at most {limit} bytes, got more",
                    field="body",
                    limit=limit,
                    value=size,
                    headers={"Connection": "close"},
                )
            return message

        return measured
