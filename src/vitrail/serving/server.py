"""The process that listens: connections with deadlines, signals, and an end that drops nothing."""

import asyncio
import contextlib
import errno
import logging
import math
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from vitrail.errors import ConfigError
from vitrail.processes.signals import known
from vitrail.serving.guard import HEADERS
from vitrail.serving.limits import Limits
from vitrail.serving.problem import Problem
from vitrail.serving.service import Service

SWEEP = 0.25
"""Seconds between two looks at the deadlines of connections."""
MOST_CHUNKS = 2048
"""Parts of a body that is sent in parts; those of 10 MiB have 5 KiB each."""
FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

log = logging.getLogger("vitrail")


class Reader(h11.Connection):
    """The requests of a client. A body in very many parts is refused: each costs more than its bytes."""

    chunks = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.chunks = 0
        elif isinstance(event, h11.Data):
            self.chunks += event.chunk_start
            if self.chunks > MOST_CHUNKS:
                raise h11.RemoteProtocolError("too many chunks", 413)
        return event


class Connection(H11Protocol):
    """One connection. uvicorn itself has no deadline for headers, and none for a client that does not read."""

    limits = Limits()
    phase: tuple[object, float] = (None, 0.0)
    """The request that is under way or answered, and the seconds that this part of it may take."""
    until = math.inf
    """When the connection is closed."""

    def connection_made(self, transport: Any) -> None:
        self.conn = Reader(h11.SERVER, self.limits.header_bytes)
        super().connection_made(transport)
        # asyncio does so for the sockets it opens itself; else head and body of an answer lie 40 ms apart
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.enter_phase()
        if len(self.connections) > self.limits.connections:
            transport.write(FULL)
            transport.close()

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)
            self.enter_phase()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.enter_phase()

    def enter_phase(self) -> None:
        """Sets the deadline, once for each phase: headers, then the request and its answer, then the reading of it."""
        limits, cycle = self.limits, self.cycle
        if cycle is not None and not cycle.response_complete:
            phase = cycle, limits.body + limits.answer + limits.reading
        elif cycle is None or (self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]):
            phase = cycle, limits.headers
        else:  # without another request, uvicorn closes the connection
            phase = cycle, limits.reading
        if phase != self.phase:
            self.phase, self.until = phase, time.monotonic() + phase[1]

    def send_400_response(self, msg: str) -> None:
        """The answer to what is no request: in our words, with our headers."""
        status = getattr(sys.exception(), "error_status_hint", 400)
        answer = Problem(status, "bad-request", "this is no HTTP request that is read here").response("")
        more = [(name.encode(), value.encode()) for name, value in {**HEADERS, "connection": "close"}.items()]
        head = h11.Response(
            status_code=status, reason=HTTPStatus(status).phrase.encode(), headers=[*answer.raw_headers, *more]
        )
        with contextlib.suppress(h11.LocalProtocolError):  # an answer is under way already
            for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        self.transport.close()


class Server(uvicorn.Server):
    """uvicorn with our signals: SIGTERM and SIGINT finish what was admitted, SIGHUP looks for newer weights."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self.on_start: Callable[[], object] = lambda: None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        loop, sweep = asyncio.get_running_loop(), asyncio.create_task(self.sweep())
        main = threading.current_thread() is threading.main_thread()
        handlers = {
            **dict.fromkeys(known("SIGTERM", "SIGINT"), self.stop),
            **dict.fromkeys(known("SIGHUP"), self.reload),
        }
        handlers = handlers if main else {}  # only there do signals arrive
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            sweep.cancel()
            for number in handlers:
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Asked twice, it waits for no client."""
        if self.should_exit:
            for connection in list(self.server_state.connections):
                connection.transport.abort()
        self.should_exit = self.service.draining = True

    def reload(self) -> None:
        self.reloading = asyncio.get_running_loop().run_in_executor(None, self.service.models.reload)

    async def sweep(self) -> None:
        """Closes connections whose deadline has passed."""
        while True:
            await asyncio.sleep(SWEEP)
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection) and now >= connection.until:
                    connection.transport.abort()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_start()


def listen(host: str, port: int) -> socket.socket:
    """A socket. Raises ConfigError for an address that is not here, or a port that is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} of {host} is in use by another program",
                next_step=f"try `port={port + 1}`, or `port=0` for any free one",
            ) from None
        raise ConfigError(f"cannot listen on {host}, port {port} ({error.strerror or error})") from None
    except OverflowError:
        raise ConfigError(f"port = {port}", allowed="0 to 65535") from None


def build_server(app: ASGIApp, service: Service, started: Callable[[], object] = lambda: None) -> Server:
    """A server, to be run with the sockets it listens on: it answers until a signal asks to stop, then finishes."""
    limits = service.limits
    config = uvicorn.Config(
        app, loop="asyncio", http=type("Bounded", (Connection,), {"limits": limits}), ws="none", lifespan="on",
        log_config=None, log_level="error", access_log=False, server_header=False, date_header=False, proxy_headers=False,
        timeout_keep_alive=max(1, int(limits.headers)), timeout_graceful_shutdown=int(limits.drain),
    )  # fmt: skip
    server = Server(config, service)
    server.on_start = started
    return server
