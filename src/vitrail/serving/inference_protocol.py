"""The Open Inference Protocol, version 2, over HTTP: what Triton, KServe and their clients speak.

Inputs are encoded images (BYTES [N], base64 in JSON), pixels (UINT8 [N, H, W, C]) or normalised images (FP32 [N, C, H, W]).
Outputs are `probabilities` and `logits` (FP32 [N, K]) and `labels` (BYTES [N]). Arrays may follow the JSON as bytes, as
Triton's binary extension has it.
"""

import json
import math
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from torch import Tensor

from vitrail.images.preprocess import Preprocess
from vitrail.prediction.predict import decide, probabilities_of
from vitrail.serving.batching import Work
from vitrail.serving.bodies import from_base64, read_json, refuse_declared
from vitrail.serving.decoder import resize_picture
from vitrail.serving.problem import Problem
from vitrail.serving.served import Served, find_model
from vitrail.serving.service import Service

TYPES = {"UINT8": np.dtype(np.uint8), "FP32": np.dtype("<f4")}
OUTPUTS = {"probabilities": "FP32", "logits": "FP32", "labels": "BYTES"}
HEADER_LENGTH = "Inference-Header-Content-Length"
MARKS = 1 << 19
"""Brackets and commas of a request: an image of 384×384 in three colours. More numbers go as bytes behind the JSON."""


@dataclass(frozen=True)
class Given:
    """The one input of a request."""

    type: str
    shape: tuple[int, ...]
    data: Any
    """A list of bytes, or an array."""


async def live(service: Service, request: Request) -> Response:
    """Yes: the process answers."""
    return JSONResponse({"live": True})


async def ready(service: Service, request: Request) -> Response:
    """Yes where an inference would be answered now."""
    return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)


async def server(service: Service, request: Request) -> Response:
    """Name and version of the server."""
    return JSONResponse({"name": "vitrail", "version": "2", "extensions": ["binary_tensor_data"]})


async def model_ready(service: Service, request: Request) -> Response:
    """Yes where this model would answer now."""
    found = {"name": named(service, request).name, "ready": service.ready}
    return JSONResponse(found, 200 if service.ready else 503)


async def model(service: Service, request: Request) -> Response:
    """Inputs and outputs of a model."""
    served = named(service, request)
    channels = served.engine.preprocess.channels
    shapes = {"BYTES": [-1], "UINT8": [-1, -1, -1, channels], "FP32": [-1, channels, -1, -1]}
    widths = {"labels": [-1]}
    return JSONResponse(
        {
            "name": served.name,
            "versions": [served.version],
            "platform": f"vitrail: {served.engine.name}, {served.engine.precision}",
            "inputs": [{"name": "image", "datatype": kind, "shape": shape} for kind, shape in shapes.items()],
            "outputs": [
                {"name": name, "datatype": OUTPUTS[name], "shape": widths.get(name, [-1, served.outputs])}
                for name in outputs_of(served)
            ],
        }
    )


async def infer(service: Service, request: Request) -> Response:
    """Answers to images."""
    served = named(service, request)
    refuse_declared(request, service.limits)
    asked, rest = split(await service.bodies.read(request), request.headers.get(HEADER_LENGTH))
    given, wanted = read_input(asked, rest, service.limits.images), read_outputs(asked, outputs_of(served))
    logits = await service.answer_or_give_up(request, answer(service, served, given))
    decide(logits, served.engine.classes, served.decision)  # raises where they are not finite
    shares = probabilities_of(logits, served.decision)
    labels = [served.classes[row].encode() for row in logits.argmax(1).tolist()]
    arrays = {"probabilities": shares.numpy(), "logits": logits.numpy(), "labels": labels}
    return respond(served, asked, wanted, arrays)


def named(service: Service, request: Request) -> Served:
    return find_model(service.models, request.path_params["name"], request.path_params.get("version"))


def split(body: bytes, length: str | None) -> tuple[dict[str, Any], bytes]:
    """The JSON and the bytes behind it. Raises Problem 400."""
    if length is None:
        return read_json(body, MARKS), b""
    if not length.isdigit() or int(length) > len(body):
        raise Problem(400, "bad-length", f"{HEADER_LENGTH} is no length of this body")
    return read_json(body[: int(length)], MARKS), body[int(length) :]


def read_input(asked: Mapping[str, Any], rest: bytes, most: int) -> Given:
    """The input, its type, shape and size checked. Raises Problem 400, 413."""
    inputs = asked.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise bad("inputs is a list of one input")
    one = inputs[0]
    kind, shape = one.get("datatype"), one.get("shape")
    if not isinstance(kind, str) or kind not in ("BYTES", *TYPES):
        raise bad("the datatype of the input is BYTES, UINT8 or FP32")
    axes = 1 if kind == "BYTES" else 4
    fits = isinstance(shape, list) and all(type(side) is int and 0 < side <= 65_535 for side in shape)
    if not fits or len(shape) != axes:
        raise bad(f"the shape of a {kind} input has {axes} axes")
    if shape[0] > most:
        raise Problem(413, "too-many", f"{shape[0]} images; at most {most} are taken at once")
    parameters = one.get("parameters")
    binary = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if binary is not None and binary != len(rest):
        raise bad("binary_data_size is not the size of the bytes behind the JSON")
    read = read_texts if kind == "BYTES" else read_array
    return Given(kind, tuple(shape), read(one.get("data"), None if binary is None else rest, kind, shape))


def read_texts(data: Any, rest: bytes | None, kind: str, shape: Sequence[int]) -> list[bytes]:
    """Encoded images: base64 texts, or bytes each with its length before it."""
    found: list[bytes] = []
    if rest is None:
        if not isinstance(data, list) or not all(isinstance(text, str) for text in data):
            raise bad("the data of a BYTES input are base64 texts")
        found = [from_base64(text) for text in data]
    else:
        while len(rest) >= 4:
            size = int.from_bytes(rest[:4], "little")
            found.append(rest[4 : 4 + size])
            rest = rest[4 + size :] if len(found[-1]) == size else b"?"
    if len(found) != shape[0] or rest:
        raise bad("data and shape of the input do not fit")
    return found


def read_array(data: Any, rest: bytes | None, kind: str, shape: Sequence[int]) -> np.ndarray:
    try:
        array = np.frombuffer(rest, TYPES[kind]) if rest is not None else flat(data, TYPES[kind])
    except (ValueError, TypeError, OverflowError):
        raise bad(f"the data of the input are no {kind} numbers") from None
    if array.size != math.prod(shape):
        raise bad("data and shape of the input do not fit")
    return array.reshape(shape)


def flat(data: Any, kind: np.dtype) -> np.ndarray:
    """Numbers of a list, nested or not. ValueError for others, and where they are not numbers of this type."""
    found = np.asarray(data).ravel()
    if found.dtype.kind not in "uif":
        raise ValueError
    if kind != np.uint8 and not (np.abs(found) < np.finfo(np.float32).max).all():
        raise ValueError
    if kind == np.uint8 and not ((found >= 0) & (found <= 255) & (found == np.floor(found))).all():
        raise ValueError
    return found.astype(kind)


def bad(sentence: str) -> Problem:
    return Problem(400, "bad-input", sentence)


async def answer(service: Service, served: Served, given: Given) -> Tensor:
    """Logits N K."""
    preprocess = served.engine.preprocess
    prepare: Callable[[Any], Tensor]

    def work(stack: Sequence[Tensor]) -> Sequence[Tensor]:
        return list(served.engine.logits(torch.stack(list(stack))))

    if given.type == "BYTES":
        prepare, job = service.decoding(preprocess), work
    elif given.type == "UINT8":
        prepare, job = partial(resize_picture, preprocess=preprocess, limit=service.limits.pixels), work
    else:
        prepare, job = partial(read_normalised, preprocess=preprocess), normalised(served)
    rows, _ = await service.ask(served, given.data, prepare, ("logits", job is work), job)
    return torch.stack(rows)


def read_normalised(given: np.ndarray, preprocess: Preprocess) -> Tensor:
    """An image that the client has made ready. Raises Problem 400."""
    image = torch.from_numpy(given.copy())
    if image.shape != (preprocess.channels, *preprocess.size):
        raise bad(f"a normalised image of this model is {preprocess.channels} × its height × its width")
    if not torch.isfinite(image).all():
        raise bad("the input has numbers that are not finite")
    return image


def normalised(served: Served) -> Work:
    """The model's answers to images that are normalised already. Raises Problem for another engine."""
    engine = served.torch
    if engine is None:
        raise Problem(422, "no-floats", "this engine reads 8-bit images")

    def work(stack: Sequence[Tensor]) -> Sequence[Tensor]:
        images = torch.stack(list(stack)).to(engine.device)
        return list(engine.run(lambda model: model(images)).float().cpu())

    return work


def outputs_of(served: Served) -> list[str]:
    """A model of numbers has logits alone: they are its answer."""
    return ["logits"] if served.decision.numeric else list(OUTPUTS)


def read_outputs(asked: Mapping[str, Any], there: Sequence[str]) -> list[dict[str, Any]]:
    """The outputs asked for, each once. Raises Problem 400."""
    wanted = asked.get("outputs") or [{"name": name} for name in there if name != "logits" or len(there) == 1]
    few = isinstance(wanted, list) and len(wanted) <= len(there) and all(isinstance(one, dict) for one in wanted)
    names = [one.get("name") for one in wanted] if few else [None]
    if any(name not in there or names.count(name) > 1 for name in names):
        raise bad(f"the outputs are {', '.join(there)}, each once")
    return wanted


def respond(
    served: Served, asked: Mapping[str, Any], wanted: Sequence[dict[str, Any]], arrays: Mapping[str, Any]
) -> Response:
    """The outputs asked for, as JSON, or behind the JSON where that is asked for."""
    every = parameter(asked, "binary_data_output")
    outputs, behind = [], b""
    for one in wanted:
        array, binary = arrays[one["name"]], parameter(one, "binary_data", every)
        found: dict[str, Any] = {"name": one["name"], "datatype": OUTPUTS[one["name"]], "shape": list(np.shape(array))}
        if binary:
            content = to_bytes(array)
            found["parameters"], behind = {"binary_data_size": len(content)}, behind + content
        else:
            found["data"] = [text.decode() for text in array] if isinstance(array, list) else array.ravel().tolist()
        outputs.append(found)
    facts = {name: json.dumps(fact) if isinstance(fact, dict) else fact for name, fact in served.about.items()}
    text = {"model_name": served.name, "model_version": served.version, "parameters": facts, "outputs": outputs}
    if isinstance(asked.get("id"), str):
        text["id"] = asked["id"][:200]
    content = json.dumps(text).encode()
    headers = {HEADER_LENGTH: str(len(content))} if behind else {}
    kind = "application/octet-stream" if behind else "application/json"
    return Response(content + behind, headers=headers, media_type=kind)


def parameter(owner: Mapping[str, Any], name: str, otherwise: bool = False) -> bool:
    parameters = owner.get("parameters")
    return bool(parameters.get(name, otherwise)) if isinstance(parameters, dict) else otherwise


def to_bytes(array: np.ndarray | list[bytes]) -> bytes:
    """As the binary extension has it: little-endian numbers, or texts each with its length before it."""
    if isinstance(array, list):
        return b"".join(struct.pack("<I", len(text)) + text for text in array)
    return array.astype("<f4").tobytes()


Handler = Callable[[Service, Request], Awaitable[Response]]
_MODEL = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
ROUTES: dict[tuple[str, str], Handler] = {
    ("GET", "/v2/health/live"): live,
    ("GET", "/v2/health/ready"): ready,
    ("GET", "/v2"): server,
    **{("GET", path): model for path in _MODEL},
    **{("GET", f"{path}/ready"): model_ready for path in _MODEL},
    **{("POST", f"{path}/infer"): infer for path in _MODEL},
}
