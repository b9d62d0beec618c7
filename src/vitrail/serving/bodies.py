"""Request bodies: read within a deadline and a size, and taken apart without trust."""

import asyncio
import base64
import binascii
import json
from typing import Any

import numpy as np
from starlette.requests import ClientDisconnect, Request

from vitrail.serving.limits import Limits
from vitrail.serving.problem import Problem, busy

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
DEPTH = 16
"""Brackets inside of each other, in JSON from a client."""
MARKS = 256
"""Brackets and commas in JSON that holds a few texts. Reading JSON stops all other clients: 10 MiB of `[],` for 7 s."""
HELD = "vitrail.held"
_CLOSE = {"Connection": "close"}


class Gone(Exception):
    """The client went away."""


class Bodies:
    """The bodies of all requests that are not answered yet: together they hold a bounded number of bytes."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.held = limits, 0

    async def read(self, request: Request) -> bytes:
        """The body. Raises Problem 408, 413, 415, and 503 where all bodies together are too large; Gone."""
        refuse_declared(request, self.limits)
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.body):
                async for part in request.stream():
                    body += part
                    self.held += len(part)
                    request.scope[HELD] = len(body)
                    if len(body) > self.limits.body_bytes:
                        raise too_large(self.limits)
                    if self.held > self.limits.held_bytes:
                        raise busy()
        except TimeoutError:
            raise Problem(408, "slow-body", "the body did not come in time", _CLOSE) from None
        except ClientDisconnect:
            raise Gone from None
        return bytes(body)

    def release(self, request: Request) -> None:
        """The request is answered, its body is no longer held."""
        self.held -= request.scope.pop(HELD, 0)


def refuse_declared(request: Request, limits: Limits) -> None:
    """Raises Problem for what the headers say of the body."""
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > limits.body_bytes:
        raise too_large(limits)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "compressed", "a compressed body is not read", _CLOSE)


def too_large(limits: Limits) -> Problem:
    return Problem(413, "too-large", f"the body is larger than {limits.body_bytes:,} bytes", _CLOSE)


async def read_images(request: Request, bodies: Bodies) -> tuple[list[bytes], dict[str, Any]]:
    """The encoded images of a request, and the other fields of a JSON body. Raises Problem, Gone."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in IMAGE_TYPES:
        content = await bodies.read(request)
        if not content:
            raise Problem(400, "no-image", "the body is empty")
        return [content], {}
    if kind != "application/json":
        raise Problem(
            415, "unknown-type", f"Content-Type is none of {', '.join(IMAGE_TYPES)}, application/json", _CLOSE
        )
    found = read_json(await bodies.read(request))
    images = found.pop("images", None)
    if not isinstance(images, list) or not images or not all(isinstance(one, str) for one in images):
        raise Problem(400, "no-image", 'the body needs "images": a list of base64 texts')
    if len(images) > bodies.limits.images:
        raise Problem(413, "too-many", f"{len(images)} images; at most {bodies.limits.images} are taken at once")
    return [from_base64(one) for one in images], found


def read_json(body: bytes, marks: int = MARKS) -> dict[str, Any]:
    """A JSON object of so many brackets and commas. Raises Problem 400, 413."""
    if sum(map(body.count, b"[]{},")) > marks:
        raise Problem(413, "long-json", f"a JSON body has {marks:,} brackets and commas at most")
    try:
        if depth(body) > DEPTH:
            raise ValueError
        found = json.loads(body, parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        raise Problem(400, "bad-json", "the body is no JSON that can be read") from None
    if not isinstance(found, dict):
        raise Problem(400, "bad-json", "the body is no JSON object")
    return found


def depth(body: bytes) -> int:
    """The most brackets inside of each other; those in texts count too, so that it is never too little."""
    brackets = np.frombuffer(body.translate(None, _NO_BRACKETS), np.uint8)
    return int(np.where((brackets == ord("[")) | (brackets == ord("{")), 1, -1).cumsum().max(initial=0))


_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def refuse_constant(name: str) -> float:
    raise ValueError(name)


def from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Problem(400, "bad-base64", "an image is no base64") from None


def number(found: Any, name: str, least: int, most: int, otherwise: int) -> int:
    """A whole number from a query or a JSON body. Raises Problem 400."""
    if found is None:
        return otherwise
    text = str(found)
    if isinstance(found, bool) or not text.isascii() or not text.isdigit() or not least <= int(text[:9]) <= most:
        raise Problem(400, "bad-option", f"{name} is a whole number of {least} to {most}")
    return int(text[:9])
