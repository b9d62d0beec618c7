"""The guard before the application: who may ask, and from where; and headers on every answer.

A server on 127.0.0.1 is reached by every page in the browsers of its machine. Host tells a page that was rebound to this
address (DNS rebinding); Origin and Sec-Fetch-Site tell a page that posts from elsewhere.
"""

import contextlib
import hmac
import ipaddress
import logging
import re
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitrail.serving.metrics import Metrics
from vitrail.serving.problem import Problem
from vitrail.serving.samples import SAMPLES

LOCAL = ("localhost", "127.0.0.1", "::1")
OPEN = (
    "/",
    "/page.css",
    "/page.js",
    *(f"/samples/{name}.png" for name in SAMPLES),
    "/v2/health/live",
    "/v2/health/ready",
)
"""Paths that need no token: the page and its drawings hold nothing, and health says yes or no."""
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
MOST_HEADERS, MOST_BYTES = 100, 16 << 10
_CLOSE = {"Connection": "close"}
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")

log = logging.getLogger("vitrail")


class Guard:
    """An ASGI application around another."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        *,
        hosts: Collection[str] = LOCAL,
        addresses: bool = False,
        token: str = "",
    ) -> None:
        """`hosts` are the names by which the server may be called; `addresses`: every address too, as no page can be
        rebound to one. With a `token` every path that is not in OPEN needs it."""
        self.app, self.metrics = app, metrics
        self.hosts, self.addresses = frozenset(map(str.lower, hosts)), addresses
        self.token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = {name for name, _ in message["headers"]}
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in own]
                message = {**message, "headers": [*message["headers"], *more]}
                self.metrics.requests.labels(route_of(scope), str(message["status"])).inc()
            await send(message)

        try:
            self.check(scope)
            await self.app(scope, receive, answer)
        except Problem as problem:
            await problem.response(scope["path"])(scope, receive, answer)
        except Exception as error:
            problem = Problem(500, "internal", "the server made a mistake; its log says which")
            log.error("request %s failed: %s", problem.id, type(error).__name__, exc_info=error)
            if not started:
                await problem.response(scope["path"])(scope, receive, answer)

    def check(self, scope: Scope) -> None:
        """Raises Problem for a request that may not be made."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        if (
            len(scope["headers"]) > MOST_HEADERS
            or sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_BYTES
        ):
            raise Problem(431, "many-headers", "the headers are too many or too long", _CLOSE)
        if "content-length" in headers and "transfer-encoding" in headers:  # proxies would read it in two ways
            raise Problem(400, "two-lengths", "a body has one length", _CLOSE)
        host = self.check_host(headers.get("host", []))
        if not scope["path"].startswith("/"):
            raise Problem(400, "bad-target", "the target is not a path")
        if scope["method"] not in ("GET", "HEAD"):
            check_origin(headers, host, scope.get("scheme", "http"))
        if self.token and scope["path"] not in OPEN:
            self.check_token(headers.get("authorization", []))

    def check_host(self, found: list[str]) -> str:
        match = _HOST.fullmatch(found[0]) if len(found) == 1 else None
        if match is None:
            raise Problem(400, "bad-host", "one Host header is needed")
        name = match["name"].strip("[]").lower()
        if match["name"].startswith("[") != (":" in name):
            raise Problem(400, "bad-host", "only an IPv6 address stands in brackets")
        if name not in self.hosts and not (self.addresses and is_address(name)):
            raise Problem(421, "wrong-host", "this server does not answer to that name")
        return found[0].lower()

    def check_token(self, found: list[str]) -> None:
        given = found[0] if len(found) == 1 else ""
        kind, _, token = given.partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self.token):
            raise Problem(401, "no-token", "a token is needed", {"WWW-Authenticate": "Bearer"})


def check_origin(headers: dict[str, list[str]], host: str, scheme: str) -> None:
    """Raises Problem 403 for a request that a page of another site makes."""
    site, origin = headers.get("sec-fetch-site", []), headers.get("origin", [])
    foreign = any(one not in ("same-origin", "none") for one in site)
    if foreign or any(one.lower() not in (f"http://{host}", f"https://{host}") for one in origin):
        raise Problem(403, "cross-site", "a page of another site may not ask")


def is_address(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return False


def route_of(scope: Scope) -> str:
    """The route of a request, of a fixed set: a path that a client made up is "other"."""
    return scope.get("vitrail.route", "other")
