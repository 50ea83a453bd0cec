"""A process, or a thread, that serves: uvicorn with a few manners of its own."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .app import create_app
from .catalogue import names_in
from .engine import Engine
from .settings import Settings

__all__ = ["Server", "running", "serve"]

MARGIN_SECONDS = 5.0  # for the last answers to go out, when work has been cancelled
HURRY_SECONDS = 1.0  # the same, when it shall end at once
HEAD_SECONDS = 40.0  # until a request has come as far as its body; more than a connection is kept alive for
INTERRUPTED = 130  # exit code
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # addresses that are all addresses, and one that can be opened


class _InTime(H11Protocol):
    """Ends a connection whose next request does not come in time, as far as its body, which has a time of its own."""

    watch: asyncio.TimerHandle | None = None

    def _watch(self) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.watch is None:
            self.watch = self.loop.call_later(HEAD_SECONDS, self.transport.abort)
        elif not idle:
            self._forget()

    def _forget(self) -> None:
        if self.watch is not None:
            self.watch.cancel()
            self.watch = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request is waited for."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Whether this was the rest of a head is for h11 to say."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """The next request is waited for."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for."""
        self._forget()
        super().connection_lost(exc)


class Server(uvicorn.Server):
    """On SIGTERM or Ctrl-C: take no new requests, finish those that are there, end with exit code 0.

    What is not done when the drain time is over is answered with 503. A second Ctrl-C does the same at once, and ends
    the process with exit code 130.

    Args:
        settings: Where to listen, and how long draining may take.
        engine: As for :func:`~helpers.serving.create_app`.
        announce: Called with the address as soon as requests are answered.
    """

    def __init__(
        self, settings: Settings, engine: Engine | None = None, announce: Callable[[str], None] | None = None
    ) -> None:
        self.app = create_app(settings, engine)
        self.announce = announce
        self.url = ""
        self.drain_seconds = settings.drain_seconds
        self.hurry = False
        super().__init__(
            uvicorn.Config(
                self.app,
                host=settings.host,
                port=settings.port,
                log_level="warning",
                access_log=False,
                server_header=False,
                http=_InTime,
                timeout_keep_alive=30,  # longer than clients usually keep a connection, so that they close it first
                # Past this uvicorn would break connections off. Who still sends a body has had its time by then.
                timeout_graceful_shutdown=math.ceil(
                    max(settings.drain_seconds, settings.body_seconds) + MARGIN_SECONDS
                ),
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say where."""
        await super().startup(sockets)
        if self.should_exit:
            return
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        host = EVERYWHERE.get(host, host)
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        if self.announce is not None:
            self.announce(self.url)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain. Uvicorn would end the process by the same signal afterwards; a drained service ends well.

        A signal may come in the middle of anything, so only flags are set here.
        """
        self.app.state.engine.drain()
        self.hurry = self.hurry or (self.should_exit and sig == signal.SIGINT)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, and see that it ends."""
        watch = asyncio.create_task(self._end_in_time())
        try:
            await super().shutdown(sockets)
        finally:
            watch.cancel()

    async def _end_in_time(self) -> None:
        """Let go of all work when the drain time is over; on a second Ctrl-C at once, and of the process too."""
        end, told = time.monotonic() + self.drain_seconds, False
        while not self.hurry:
            if not told and time.monotonic() >= end:
                await asyncio.to_thread(self.app.state.engine.cancel_all)
                told = True
            await asyncio.sleep(0.05)
        ended = threading.Timer(HURRY_SECONDS, os._exit, [INTERRUPTED])  # whatever the event loop is busy with
        ended.daemon = True
        ended.start()
        await asyncio.to_thread(self.app.state.engine.cancel_all)
        while self.server_state.connections:
            await asyncio.sleep(0.02)
        os._exit(INTERRUPTED)  # an evaluation under way cannot be stopped, and would be waited for


def serve(settings: Settings | None = None) -> None:
    """Serve until a signal ends it; prints the address.

    Raises:
        OSError: If the address cannot be listened on.
        ValueError: If a model's file is damaged.
        FileNotFoundError: If the folder of models is missing.
    """
    settings = settings or Settings()
    everywhere, own = settings.host in EVERYWHERE, names_in(settings.models_dir)
    _check_address(settings)

    def announce(url: str) -> None:
        names = ", ".join(name + " (yours)" * (name in own) for name in server.app.state.engine.models)
        print(f"serving {names}\npage: {url}/  interface: {url}/docs", flush=True)
        if everywhere:
            print(f"reachable from other machines: it listens on all addresses ({settings.host})")
        print(f"listening on {url}", flush=True)

    server = Server(settings, announce=announce)
    server.run()


def _check_address(settings: Settings) -> None:
    """Find out before models are loaded, and with an error that says which address."""
    with contextlib.closing(socket.create_server((settings.host, settings.port), family=_family(settings.host))):
        pass


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@contextlib.contextmanager
def running(settings: Settings | None = None, engine: Engine | None = None) -> Iterator[str]:
    """A real server in a thread of this process, on a free port unless the settings name one; drained at the end.

    Args:
        settings: Limits; the port is a free one if None.
        engine: As for :func:`~helpers.serving.create_app`.

    Yields:
        The address, such as ``http://127.0.0.1:43210``.

    Raises:
        RuntimeError: If it did not start.

    Example:
        >>> import httpx
        >>> with running() as url:
        ...     httpx.get(f"{url}/readyz").json()["status"]
        'ready'
    """
    listening = threading.Event()
    server = Server(settings or Settings(port=0), engine, announce=lambda url: listening.set())
    thread = threading.Thread(target=server.run, name="server")
    thread.start()
    try:
        while not listening.wait(0.01):
            if not thread.is_alive():
                raise RuntimeError("expected a server that starts: is the address in use?")
        yield server.url
    finally:
        server.handle_exit(signal.SIGTERM, None)
        thread.join()
