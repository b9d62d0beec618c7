"""A stand-in of the Hugging Face hub on this machine: its HTTP API, as far as an upload and a download need it."""

import base64
import hashlib
import http.server
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SHA = "a" * 40


class Hub(http.server.BaseHTTPRequestHandler):
    """The addresses of the hub's API that an upload of small files and a download need."""

    name: str
    """owner/name of its one repository."""
    files: dict[str, bytes]
    asked: list[tuple[str, dict]]
    status = 200
    large: frozenset[str] = frozenset()
    """Files that the hub names by their sha256, as it does all large ones."""
    damage: frozenset[str] = frozenset()
    """Files of which a byte is sent wrong."""
    pause = 0.0
    """Seconds before each answer."""
    silent = "(?!)"
    """An expression for the addresses that are never answered; of nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def answer(self, data: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.asked.append((self.path, {"token": self.headers.get("Authorization")}))
        if self.status != 200:
            return self.answer({"error": "no"}, self.status)
        if self.path == "/api/repos/create":
            self.asked[-1][1].update(json.loads(body))
            return self.answer({"url": f"http://{self.headers['Host']}/{self.name}"})
        if "/preupload/" in self.path:
            named = [file["path"] for file in json.loads(body)["files"]]
            regular = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in named]
            return self.answer({"files": regular})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.answer(
                {"commitUrl": f"http://{self.headers['Host']}/{self.name}/commit/{SHA}", "commitOid": SHA}
            )
        return self.answer({})  # the check of the card's metadata

    def do_GET(self) -> None:
        self.asked.append((self.path, {}))
        time.sleep(self.pause)
        if re.search(self.silent, self.path):
            self.connection.recv(1)  # until the client goes away
            return None
        if self.status == 401:
            return self.answer({"error": "gated"}, 401, {"X-Error-Code": "GatedRepo"})
        if found := re.fullmatch(rf"/{self.name}/resolve/[^/]+/(.*)", self.path):
            return self.send_file(found[1])
        if "/tree/" in self.path:
            sizes = {name: len(content) for name, content in self.files.items()}
            return self.answer(
                [{"type": "file", "path": name, "size": size, "oid": SHA} for name, size in sizes.items()]
            )
        listed = [{"rfilename": name} for name in self.files]
        return self.answer({"id": self.name, "sha": SHA, "siblings": listed, "private": False, "tags": []})

    def send_file(self, name: str) -> None:
        if name not in self.files:
            return self.answer({"error": "no"}, 404, {"X-Error-Code": "EntryNotFound"})
        content = self.files[name]
        large = {"X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Linked-Size": str(len(content))}
        tag = hashlib.sha1(content).hexdigest()
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": SHA, **(large if name in self.large else {})}
        if name in self.damage:
            content = content[:-1] + bytes([content[-1] ^ 1])
        return self.answer(content, headers=headers)

    do_HEAD = do_GET


@contextmanager
def hub_at(name: str) -> Iterator[tuple[str, type[Hub]]]:
    """(address, the class of its answers), while the block runs."""
    handler = type("Here", (Hub,), {"name": name, "files": {}, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        server.server_close()
