"""The answers that are refusals: a status, a code for programs, a sentence for people, and nothing internal."""

import json
import secrets
from collections.abc import Mapping

from starlette.responses import Response


class Problem(Exception):
    """A request that is refused. `code` is one of a fixed set of words; `detail` never quotes the server's insides."""

    def __init__(self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.headers = status, code, detail, dict(headers or {})
        self.id = secrets.token_hex(6)

    def response(self, path: str) -> Response:
        """As RFC 9457 has it (application/problem+json); the Open Inference Protocol wants a field `error` too."""
        found = {"status": self.status, "code": self.code, "detail": self.detail, "id": self.id}
        if path.startswith("/v2"):
            found["error"] = self.detail
        return Response(json.dumps(found), self.status, self.headers, "application/problem+json")


def busy(seconds: float = 1.0) -> Problem:
    """Too much is waiting: come again in so many seconds."""
    return Problem(503, "busy", "the server is busy; try again later", {"Retry-After": str(max(1, round(seconds)))})
