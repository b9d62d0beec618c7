"""A client for load: it costs 0.1 ms a request of the cores that it shares with the server; httpx costs 1 ms."""

import asyncio
import collections
import contextlib
import io
import re
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def photograph() -> bytes:
    """A JPEG of 500×375: noise on a gradient, about 80 kB."""
    import numpy as np
    from PIL import Image

    grey = np.add.outer(np.linspace(0, 120, 375), np.linspace(0, 100, 500))
    pixels = grey[..., None] + np.random.default_rng(0).normal(20, 12, (375, 500, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def post(path: str, content: bytes, kind: str = "image/jpeg") -> bytes:
    """A request as it goes over the wire."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Type: {kind}",
        f"Content-Length: {len(content)}",
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + content


@dataclass
class Tally:
    """Counts of requests by status or error, and the seconds of each."""

    counts: collections.Counter = field(default_factory=collections.Counter)
    seconds: dict[object, list[float]] = field(default_factory=lambda: collections.defaultdict(list))

    def quantile(self, what: object, q: float) -> float:
        """Milliseconds; 0 where none became this."""
        values = sorted(self.seconds[what])
        return 1000 * values[int(q * (len(values) - 1))] if values else 0.0


class Pool:
    """Connections to one port that are kept open between requests."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, request: bytes, tally: Tally) -> None:
        began, what = time.perf_counter(), "lost"
        try:
            what = await asyncio.wait_for(self._ask(request), 60)
        except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError) as error:
            what = type(error).__name__
        tally.counts[what] += 1
        tally.seconds[what].append(time.perf_counter() - began)

    async def _ask(self, request: bytes) -> int:
        reader, writer = self.free.pop() if self.free else await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = LENGTH.search(head)
        await reader.readexactly(int(length[1]) if length else 0)
        if b"\r\nconnection: close" in head.lower():
            writer.close()
        else:
            self.free.append((reader, writer))
        return int(head[9:12])


@contextlib.asynccontextmanager
async def pooled(port: int) -> AsyncIterator[Pool]:
    pool = Pool(port)
    try:
        yield pool
    finally:
        for _, writer in pool.free:
            writer.close()


async def ask_in_turn(port: int, clients: int, seconds: float, requests: Sequence[bytes]) -> Tally:
    """So many clients, each of which asks again when it was answered."""
    tally, end = Tally(), time.perf_counter() + seconds

    async def client(pool: Pool, at: int) -> None:
        while time.perf_counter() < end:
            await pool.ask(requests[at % len(requests)], tally)
            at += 1

    async with pooled(port) as pool, asyncio.TaskGroup() as tasks:
        for k in range(clients):
            tasks.create_task(client(pool, k * 7))
    return tally


async def flood(port: int, rate: float, seconds: float, request: bytes) -> Tally:
    """Requests at a rate that does not wait for answers."""
    tally, began = Tally(), time.perf_counter()
    async with pooled(port) as pool, asyncio.TaskGroup() as tasks:
        for k in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + k / rate - time.perf_counter()))
            tasks.create_task(pool.ask(request, tally))
    return tally
