"""The server beside the bare model and beside LitServe: the same weights, photograph, decoder and threads.

    python bench/serve.py [--rounds 3] [--seconds 6] [--model vit-s/16] [--clients 4] [--json]
    python bench/serve.py --overload 20           # ten times as many requests as can be answered: counts

Claims: 95 % of the bare model's throughput with four clients; as fast as LitServe; 2 ms over the bare model at the
median of one client (`p50_ms` of both is printed). Under overload every request is answered or refused, none is lost.

The bare model decodes, resizes and computes in one loop of one process. LitServe runs the same decoder and model in its
worker, with its defaults.
"""

import argparse
import asyncio
import collections
import contextlib
import io
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pairs import report, take_turns

CLAIMS = [("vitrail", "bare", 0.95), ("vitrail", "litserve", 1.0)]


def photograph() -> bytes:
    """A JPEG of 500×375: noise on a gradient, about 80 kB."""
    import numpy as np
    from PIL import Image

    grey = np.add.outer(np.linspace(0, 120, 375), np.linspace(0, 100, 500))
    pixels = grey[..., None] + np.random.default_rng(0).normal(20, 12, (375, 500, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def save_model(folder: Path, name: str) -> None:
    import vitrail

    config = vitrail.build(name, classes=1000).config
    vitrail.save(vitrail.build(name, classes=1000), folder, preprocess=vitrail.Preprocess(size=config.image))


def bare(folder: str):
    """Bytes to answers, without a server."""
    import vitrail
    from vitrail.images.decode import decode
    from vitrail.prediction.engine import TorchEngine
    from vitrail.prediction.predict import Decision, best_classes

    engine = TorchEngine.of(vitrail.load(folder), device="cpu")
    decision = Decision.of(engine, 5)

    def answer(content: bytes):
        return best_classes(engine, engine.preprocess.resize_image(decode(content))[None], decision)[0]

    return answer


def serve_litserve(folder: str, port: int) -> None:
    import litserve
    from starlette.requests import Request

    class Api(litserve.LitAPI):
        def setup(self, device: str) -> None:
            self.answer = bare(folder)

        async def decode_request(self, request: Request) -> bytes:
            return await request.body()

        def predict(self, content: bytes):
            return self.answer(content)

        def encode_response(self, output) -> dict:
            return {"labels": output[0], "probabilities": output[1]}

    litserve.LitServer(Api(), accelerator="cpu").run(port=port, generate_client_file=False, log_level="error")


@contextlib.contextmanager
def started(name: str, folder: str) -> Iterator[str]:
    """A server in a process of its own; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    if name == "litserve":
        process = multiprocessing.get_context("spawn").Process(target=serve_litserve, args=(folder, port))
        process.start()
        stop = process.terminate
    else:
        words = [sys.executable, "-m", "vitrail", "serve", f"model={folder}", "--port", str(port), "--device", "cpu"]
        running = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        stop = running.terminate
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/predict"
    finally:
        stop()


async def ask(url: str, clients: int, seconds: float) -> tuple[list[float], int]:
    """Seconds of each answer, of so many clients that ask one after the other; and how many were refused."""
    import httpx

    took: list[float] = []
    refused = 0
    content, headers = photograph(), {"content-type": "image/jpeg"}
    end = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal refused
        async with httpx.AsyncClient(timeout=60) as session:
            while time.perf_counter() < end:
                began = time.perf_counter()
                found = await session.post(url, content=content, headers=headers)
                took.append(time.perf_counter() - began) if found.status_code == 200 else None
                refused += found.status_code != 200

    await asyncio.gather(*(client() for _ in range(clients)))
    return took, refused


def measure_contender(name: str, folder: str, clients: int, seconds: float) -> dict:
    """Throughput with several clients, and the median of one."""
    if name == "bare":
        answer, content, took = bare(folder), photograph(), []
        answer(content)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            answer(content)
            took.append(time.perf_counter() - began)
        return {"images_per_s": 1 / statistics.mean(took), "p50_ms": 1000 * statistics.median(took)}
    with started(name, folder) as url:
        asyncio.run(ask(url, 1, 1.0))
        alone, _ = asyncio.run(ask(url, 1, seconds / 2))
        together, _ = asyncio.run(ask(url, clients, seconds))
    return {"images_per_s": len(together) / seconds, "p50_ms": 1000 * statistics.median(alone)}


async def flood(url: str, rate: float, seconds: float) -> collections.Counter:
    """Requests at a rate that does not wait for answers: what became of each, and the slowest that was answered."""
    import httpx

    counts: collections.Counter = collections.Counter()
    took: list[float] = []
    refusals: list[float] = []
    content, headers = photograph(), {"content-type": "image/jpeg"}

    async def one(session: httpx.AsyncClient) -> None:
        began = time.perf_counter()
        try:
            found = await session.post(url, content=content, headers=headers)
        except httpx.HTTPError as error:
            counts[type(error).__name__] += 1
            return
        counts[found.status_code] += 1
        (took if found.status_code == 200 else refusals).append(time.perf_counter() - began)

    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(timeout=60, limits=limits) as session, asyncio.TaskGroup() as tasks:
        for _ in range(int(rate * seconds)):
            tasks.create_task(one(session))
            await asyncio.sleep(1 / rate)
    for name, values in (("answered", sorted(took)), ("refused", sorted(refusals))):
        if values:
            p50, p99 = values[len(values) // 2], values[int(0.99 * (len(values) - 1))]
            print(f"  {name}: p50 {1000 * p50:.0f} ms, p99 {1000 * p99:.0f} ms")
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--model", default="vit-s/16")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--overload", type=float, default=0.0, help="seconds of ten times as many requests as fit")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.contender:
        found = measure_contender(asked.contender, asked.folder, asked.clients, asked.seconds)
        rate = found.pop("images_per_s")
        import torch

        print(json.dumps(dict(images_per_s=rate, others=0.0, threads=torch.get_num_threads(), extra=found)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), asked.model)
        if asked.overload:
            with started("vitrail", folder) as url:
                took, _ = asyncio.run(ask(url, asked.clients, 3.0))
                rate = 10 * len(took) / 3
                counts = asyncio.run(flood(url, rate, asked.overload))
            print(f"{sum(counts.values())} requests at {rate:.0f} a second: {dict(counts)}")
            return int(set(counts) != {200, 503})
        options = ["--seconds", str(asked.seconds), "--clients", str(asked.clients), "--folder", folder]
        turns = take_turns(__file__, ["bare", "vitrail", "litserve"], asked.rounds, options)
    return report(turns, CLAIMS, as_json=asked.json, cores=os.cpu_count())


if __name__ == "__main__":
    raise SystemExit(main())
