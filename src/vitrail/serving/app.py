"""The routes: /predict, /look, /embed, /models, the Open Inference Protocol under /v2, /metrics, /openapi.json, /."""

import base64
import hashlib
import io
import json
import struct
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from vitrail import hardware
from vitrail.errors import ConfigError
from vitrail.images.preprocess import Preprocess
from vitrail.prediction.predict import decide
from vitrail.serving import inference_protocol
from vitrail.serving.bodies import Gone, number, read_images
from vitrail.serving.guard import LOCAL, Guard
from vitrail.serving.limits import Limits
from vitrail.serving.look import Looked
from vitrail.serving.problem import Problem
from vitrail.serving.samples import SAMPLES
from vitrail.serving.served import Models, Served, find_model, open_served
from vitrail.serving.service import Service

Handler = Callable[[Service, Request], Awaitable[Response]]
MOST_CLASSES = 100_000


async def read_asked(service: Service, request: Request) -> tuple[Served, list[bytes], dict[str, Any]]:
    """The model that is asked, the images and the other fields. A JSON body's `model` goes before that of the query."""
    served = find_model(service.models, request.query_params.get("model"))  # before the body is read
    images, fields = await read_images(request, service.bodies)
    name = fields.get("model")
    if name is None:
        return served, images, fields
    if not isinstance(name, str):
        raise Problem(400, "bad-option", "model is a name of /models")
    return find_model(service.models, name), images, fields


async def predict(service: Service, request: Request) -> Response:
    """Labels and probabilities: of the image in the body, or of those in a JSON body."""
    served, images, fields = await read_asked(service, request)
    top = number(fields.get("top", request.query_params.get("top")), "top", 1, MOST_CLASSES, 5)
    work = service.classify(served, images, top, served.engine.preprocess)
    found, times = await service.answer_or_give_up(request, work)
    answers = [served.answer(*one) for one in found]
    return JSONResponse({"model": served.about, "answers": answers, "milliseconds": times.as_dict()})


async def embed(service: Service, request: Request) -> Response:
    """The features that the head reads."""
    served, images, _ = await read_asked(service, request)
    found, times = await service.answer_or_give_up(request, service.embed(served, images))
    return JSONResponse({"model": served.about, "features": found, "milliseconds": times.as_dict()})


async def look(service: Service, request: Request) -> Response:
    """Labels and attention maps: those of the class token as JSON; with `layer`, those of every patch as bytes."""
    query = request.query_params
    served, images, fields = await read_asked(service, request)
    if len(images) > 1:
        raise Problem(413, "too-many", "one image is looked at")
    top = number(fields.get("top", query.get("top")), "top", 1, MOST_CLASSES, 5)
    preprocess = at_size(served, query.get("size"), service.limits.enlarge)
    layers = chosen_layers(served, query.get("layer"))
    positions = query.get("positions", "on") != "off"
    work = service.look(served, images[0], preprocess, layers, "layer" in query, positions)
    found, seen, times = await service.answer_or_give_up(request, work)
    (decided,) = decide(found.logits, served.engine.classes, replace(served.decision, top_k=top))
    header = {
        "model": served.about,
        "answers": [served.answer(*decided)],
        "milliseconds": times.as_dict(),
        "grid": found.grid,
        "own_grid": found.own_grid,
        "first": found.first,
        "layers": found.layers,
        "heads": found.heads,
        "missing": found.missing,
        "seen": {"size": seen.shape[1:], "png": png(seen.permute(1, 2, 0).numpy())},
    }
    if "layer" in query:
        return as_bytes(header, found)
    maps = {name: None if array is None else as_text(array.tobytes()) for name, array in found.arrays.items()}
    return JSONResponse({**header, **maps})


def as_bytes(header: Mapping[str, Any], found: Looked) -> Response:
    """The length of a JSON text (4 bytes, little-endian), the text, and the arrays that it describes."""
    there = {name: array for name, array in found.arrays.items() if array is not None}
    described = [{"name": name, "type": array.dtype.name, "shape": array.shape} for name, array in there.items()]
    text = json.dumps({**header, "arrays": described}).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<I", len(text)) + text + b"".join(array.tobytes() for array in there.values())
    return Response(body, media_type="application/octet-stream")


def as_text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def png(image: np.ndarray) -> str:
    """A picture of one or three channels as base64, the first three of more; not compressed, which would take 5 ms."""
    image = image[..., :3] if image.shape[2] >= 3 else image[..., 0]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, "png", compress_level=0)
    return as_text(file.getvalue())


def at_size(served: Served, asked: str | None, enlarge: float) -> Preprocess:
    """The preprocessing for images of another height and width, in the model's proportions. Raises Problem 400."""
    preprocess = served.engine.preprocess
    if asked is None or served.module is None:
        return preprocess
    height, width = preprocess.size
    multiple = served.module.multiple
    most = int(max(height, width) * enlarge**0.5)
    longer = number(asked, "size", multiple, most, 0)
    sides = [max(multiple, round(longer * side / max(height, width) / multiple) * multiple) for side in (height, width)]
    return replace(preprocess, size=(sides[0], sides[1]))


def chosen_layers(served: Served, asked: str | None) -> Sequence[int] | None:
    """None for all: where none is named, or "all". Raises Problem 400."""
    if asked in (None, "all") or served.module is None:
        return None
    layers = len(served.module.attention_layers())
    return [number(one, "layer", 1, max(1, layers), 1) for one in asked.split(",")[:layers]]


async def models(service: Service, request: Request) -> Response:
    """The models, the first of them being the one that answers where none is named."""
    return JSONResponse({"models": [describe(served) for served in service.models.by_name.values()]})


def describe(served: Served) -> dict[str, Any]:
    module = served.module
    record = served.record
    return {
        **served.about,
        "labels": served.classes[:1000],
        "layers": len(module.attention_layers()) if module is not None else 0,
        "multiple": module.multiple if module is not None else 0,
        "positions": module is not None and getattr(module.trunk, "positions", None) is not None,
        "licence": getattr(record, "licence", ""),
    }


async def metrics(service: Service, request: Request) -> Response:
    """Counts and times, for Prometheus."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def page_file(name: str, kind: str) -> Handler:
    content = files("vitrail.serving").joinpath("page", name).read_bytes()
    headers = {"etag": f'"{hashlib.sha256(content).hexdigest()[:32]}"', "cache-control": "no-cache"}

    async def page(service: Service, request: Request) -> Response:
        """A file of the page; 304 where the browser holds this one."""
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=kind)

    return page


def routes() -> dict[tuple[str, str], Handler]:
    """(method, path) -> what answers."""
    return {
        ("POST", "/predict"): predict,
        ("POST", "/look"): look,
        ("POST", "/embed"): embed,
        ("GET", "/models"): models,
        ("GET", "/metrics"): metrics,
        ("GET", "/openapi.json"): page_file("openapi.json", "application/json"),
        ("GET", "/"): page_file("index.html", "text/html; charset=utf-8"),
        ("GET", "/page.css"): page_file("page.css", "text/css; charset=utf-8"),
        ("GET", "/page.js"): page_file("page.js", "text/javascript; charset=utf-8"),
        **{("GET", f"/samples/{name}.png"): page_file(f"{name}.png", "image/png") for name in SAMPLES},
        **inference_protocol.ROUTES,
    }


class Endpoint:
    """One route, as ASGI."""

    def __init__(self, service: Service, method: str, path: str, handler: Handler) -> None:
        self.service, self.method, self.path, self.handler = service, method, path, handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["vitrail.route"] = self.path
        response = await self.answer(Request(scope, receive, send))
        await response(scope, receive, send)

    async def answer(self, request: Request) -> Response:
        if request.method != self.method and (self.method, request.method) != ("GET", "HEAD"):
            raise Problem(405, "wrong-method", f"this path is asked with {self.method}", {"Allow": self.method})
        if self.service.draining and not self.path.startswith("/v2/health"):
            raise Problem(503, "stopping", "the server is stopping", {"Retry-After": "5"})
        try:
            return await self.handler(self.service, request)
        except Gone:
            return Response(status_code=499)
        except ConfigError as error:
            raise Problem(400, "does-not-fit", error.found) from None
        finally:
            self.service.bodies.release(request)


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    raise Problem(404, "no-path", "there is no such path")


def application(
    service: Service, *, hosts: Collection[str] = LOCAL, addresses: bool = False, token: str = ""
) -> ASGIApp:
    """The ASGI application; its lifespan starts and stops the service."""
    found = [Route(path, Endpoint(service, method, path, handler)) for (method, path), handler in routes().items()]
    router = Router(found, redirect_slashes=False, default=not_found, lifespan=lambda _: service.running())
    return Guard(router, service.metrics, hosts=hosts, addresses=addresses, token=token)


def build(
    paths: Mapping[str, str],
    *,
    limits: Limits | None = None,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    batch: int = 0,
    watch: float = 0.0,
    **guard: Any,
) -> tuple[Service, ASGIApp]:
    """The models opened and checked, and the application around them. `guard` is what `application` takes.

    `batch` 0 is 1 on a CPU, where a batch is no faster, and 32 elsewhere.
    """
    where = hardware.device(device)
    models = Models(paths, partial(open_served, engine=engine, device=str(where), precision=precision))
    service = Service(models, limits or Limits(), batch=batch or (1 if where.type == "cpu" else 32), watch=watch)
    return service, application(service, **guard)
