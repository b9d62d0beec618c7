"""A server in a thread of the test, on a free port; and bytes as a client sends them."""

import contextlib
import io
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.support import serve_extra  # noqa: F401
from vitrail.images.preprocess import Preprocess
from vitrail.models import zoo
from vitrail.models.backbone import ModelConfig
from vitrail.models.resnet import ResNetConfig
from vitrail.models.vit import ViTConfig
from vitrail.serving.app import build
from vitrail.serving.limits import Limits
from vitrail.serving.server import Server, build_server, listen
from vitrail.serving.service import Service
from vitrail.weights.bundle import Record, save_bundle

CONFIG = ViTConfig(width=32, depth=2, heads=2, mlp_width=48, patch=(8, 8), image=(32, 48), classes=4)
NUMBERS = replace(CONFIG, classes=1)
CONVOLUTIONS = ResNetConfig(depths=(1,), widths=(128,), root_width=32, image=(32, 48), classes=4)
CLASSES = ("cat", "dog", "<img src=x onerror=alert(1)>", "überfisch")


def save_model(folder: Path, seed: int = 0, *, config: ModelConfig = CONFIG, **changes: Any) -> Path:
    """A bundle of a small model, a ViT unless told, whose parameters are all random."""
    model = zoo.build(config)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draws))
    record = Record(config=config, preprocess=Preprocess(size=config.image), **{"classes": CLASSES, **changes})
    save_bundle(folder, model, record)
    return folder


def picture(seed: int = 0, size: tuple[int, int] = (60, 40), kind: str = "PNG", **options: Any) -> bytes:
    """An encoded picture of random pixels, another for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return encode(Image.fromarray(pixels), kind, **options)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Running:
    """A server that answers."""

    port: int
    service: Service
    server: Server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, timeout: float = 30
    ) -> Answer:
        """One request, over a connection of its own, without a library's opinion."""
        sent = {"Host": f"127.0.0.1:{self.port}", "Connection": "close", **(headers or {})}
        if body or method == "POST":
            sent.setdefault("Content-Length", str(len(body)))
        head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        raw = self.raw(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body, timeout)
        return parse(raw)

    def raw(self, content: bytes, timeout: float = 30) -> bytes:
        """The bytes that come back until the connection ends."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(content)
            found = b""
            with contextlib.suppress(ConnectionResetError):
                while more := connection.recv(1 << 16):
                    found += more
            return found

    def post(self, path: str, body: bytes, kind: str = "image/png", **headers: str) -> Answer:
        return self.ask("POST", path, body, {"Content-Type": kind, **headers})


def parse(raw: bytes) -> Answer:
    """The first response in these bytes; status 0 where there is none."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    if not lines[0].startswith("HTTP/"):
        return Answer(0, {}, raw)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return Answer(int(lines[0].split()[1]), headers, rest[: int(headers.get("content-length", len(rest)))])


@contextlib.contextmanager
def running(
    paths: Mapping[str, Path], *, limits: Limits | None = None, batch: int = 1, watch: float = 0.0, **guard: Any
) -> Iterator[Running]:
    """A server of these bundles, in a thread."""
    # a busy machine may be slow to decode: the limit is tested where it is the subject
    limits = limits or Limits(decode_seconds=10, answer=20)
    named = {name: str(path) for name, path in paths.items()}
    service, app = build(named, limits=limits, device="cpu", precision="fp32", batch=batch, watch=watch, **guard)
    listening = listen("127.0.0.1", 0)
    begun = threading.Event()
    server = build_server(app, service, begun.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    assert begun.wait(60)
    try:
        yield Running(listening.getsockname()[1], service, server)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def until(condition: Any, seconds: float = 20) -> bool:
    """Whether it comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False
