"""The process that listens: connections with deadlines, signals, and an end that drops nothing."""

import asyncio
import contextlib
import errno
import logging
import socket
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from vitrail.errors import ConfigError
from vitrail.processes.signals import known
from vitrail.serving.limits import Limits
from vitrail.serving.service import Service

SWEEP = 0.25
"""Seconds between two looks at the deadlines of connections."""
FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

log = logging.getLogger("vitrail")


class Connection(H11Protocol):
    """One connection. uvicorn itself has no deadline for headers, and none for a client that does not read."""

    limits = Limits()
    until: float | None = None
    """When it is closed; None while nothing is under way."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # asyncio does so for the sockets it opens itself; else head and body of an answer lie 40 ms apart
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.until = time.monotonic() + self.limits.headers
        if len(self.connections) > self.limits.connections:
            transport.write(FULL)
            transport.close()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self.until is None:
            self.until = time.monotonic() + self.limits.headers
        waited = self.conn.their_state is h11.IDLE
        super().data_received(data)
        if waited and self.conn.their_state is not h11.IDLE:
            limits = self.limits
            self.until = time.monotonic() + limits.body + limits.answer + limits.reading

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.until = time.monotonic() + self.limits.reading if self.transport.get_write_buffer_size() else None

    def close_if_late(self, now: float) -> None:
        if self.until is None or now < self.until:
            return
        finished = self.cycle is None or self.cycle.response_complete
        if finished and self.conn.their_state is h11.IDLE and not self.transport.get_write_buffer_size():
            self.until = None if self.cycle is not None else self.until
        if self.until is not None:
            self.transport.abort()


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
        """Asked twice, it ends at once."""
        self.force_exit = self.should_exit
        self.should_exit = self.service.draining = True

    def reload(self) -> None:
        self.reloading = asyncio.get_running_loop().run_in_executor(None, self.service.models.reload)

    async def sweep(self) -> None:
        """Closes connections whose deadline has passed."""
        while True:
            await asyncio.sleep(SWEEP)
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.close_if_late(now)

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
        log_config=None, access_log=False, server_header=False, date_header=False, proxy_headers=False,
        timeout_keep_alive=max(1, int(limits.headers)), timeout_graceful_shutdown=int(limits.drain),
        h11_max_incomplete_event_size=limits.header_bytes,
    )  # fmt: skip
    server = Server(config, service)
    server.on_start = started
    return server
