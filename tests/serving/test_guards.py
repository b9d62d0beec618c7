"""The guards: which clients may ask, and what a request may say. Each test names its guard, and fails without it."""

import asyncio
import base64
import json
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.serving import CLASSES, Answer, Running, parse, picture, running, until
from vitrail.api.serve import named, serve
from vitrail.errors import ConfigError
from vitrail.images.preprocess import Preprocess
from vitrail.serving import guard
from vitrail.serving.decoder import Decoders
from vitrail.serving.limits import Limits
from vitrail.serving.problem import Problem
from vitrail.serving.served import Models, open_served

TOKEN = "a-token-of-some-length"
OPENED: list[str] = []


def _listen(event: str, words: tuple) -> None:
    """Files that a request with a path in it opens, and sockets that connect outwards."""
    if event in ("open", "socket.connect", "socket.getaddrinfo"):
        OPENED.append(f"{event} {words[:2]}")


sys.addaudithook(_listen)


@pytest.fixture
def closed(bundle: Path) -> Iterator[Running]:
    """A server that wants a token."""
    with running({"small": bundle}, token=TOKEN) as found:
        yield found


def test_row_1_another_address_needs_a_token(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrail.serving.server.listen", lambda *_: pytest.fail("the server listens"))
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(ConfigError, match=r"without a token.*`token_file`"):
            serve(bundle, host=host)


def test_what_is_missing_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """A busy port, a model that is not there, two models of one name, the packages."""
    from vitrail.cli import main

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(bundle), "--port", str(port)]) == 78
    said = capsys.readouterr().err
    assert f"port {port} of 127.0.0.1 is in use by another program; try --port {port + 1}" in said
    assert main(["serve", "nothing-there", "--port", "0"]) == 65
    assert main(["serve", str(bundle), str(bundle)]) == 78
    assert main(["serve"]) == 78
    capsys.readouterr()
    assert main(["serve", f"x={bundle}", f"x={bundle}"]) == 78 and "one name" in capsys.readouterr().err
    assert main(["serve", str(bundle), "--watch", "nan"]) == 78
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["serve", str(bundle)]) == 78
    assert "pip install 'vitrail[serve]'" in capsys.readouterr().err


def test_a_model_is_named_by_its_place_or_before_an_equals_sign(tmp_path: Path) -> None:
    (folder := tmp_path / "lr=1").mkdir()
    assert named(["cats=runs/a", "runs/b", folder]) == {"cats": "runs/a", "b": "runs/b", "lr-1": str(folder)}
    assert named({"cats": folder}) == {"cats": str(folder)}


def test_what_cannot_be_served_is_told(bundle: Path) -> None:
    """A model in memory, an engine that is not for weights, a name that is none, a loop that runs already."""
    with pytest.raises(ConfigError, match="a model that is a dict; allowed: paths"):
        named([{}])
    with pytest.raises(ConfigError, match="a model that is a Linear; allowed: paths"):
        named(torch.nn.Linear(1, 1))
    with pytest.raises(ConfigError, match=r"engine 'openvino' for .*auto or torch for weights"):
        open_served("small", str(bundle), engine="openvino")
    with pytest.raises(ConfigError, match=r"'_run'; allowed: a letter or digit, then .*NAME=PATH"):
        Models({"_run": "_run"}, open_served)

    async def inside() -> None:
        serve(bundle, port=0)

    with pytest.raises(ConfigError, match=r"inside of a running event loop.*threading\.Thread"):
        asyncio.run(inside())


HOSTS = {
    "127.0.0.1": 200, "localhost": 200, "LOCALHOST": 200, "localhost:{port}": 200, "[::1]": 200, "[::1]:80": 200,
    "evil.example": 421, "127.0.0.1.evil.example": 421, "localhost.evil.example": 421, "localhost.": 421,
    "www.localhost": 421, "127.0.0.2": 421, "10.0.0.1": 421, "[::2]": 421, "0.0.0.0": 421, "2130706433": 421, "127.1": 421,
    "": 400, "localhost@evil.example": 400, "localhost/evil": 400, "localhost:99999999": 400, "localhost:": 400, "a b": 400,
    "localhost,evil.example": 400, "[127.0.0.1]": 400, "localhost:80:80": 400, "*": 400, "lo\tcalhost": 400,
}  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_row_2_the_host_is_one_of_the_servers_names(served: Running, host: str) -> None:
    """DNS rebinding: a page of evil.example whose name now leads to 127.0.0.1 sends its own name."""
    found = served.ask("GET", "/models", headers={"Host": host.format(port=served.port)})
    assert found.status in ({400, 421} if HOSTS[host] == 400 else {HOSTS[host]})


def test_row_2_two_hosts_and_other_forms(served: Running) -> None:
    two = served.raw(b"GET /models HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
    assert parse(two).status == 400
    none = served.raw(b"GET /models HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert parse(none).status == 400
    absolute = served.raw(b"GET http://evil.example/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert parse(absolute).status == 400
    old = served.raw(b"GET /models HTTP/1.0\r\n\r\n")
    assert parse(old).status == 400


def test_row_2_addresses_are_names_only_where_they_are_told(bundle: Path) -> None:
    with running({"small": bundle}, addresses=True, hosts=("photos.example",), token=TOKEN) as server:
        statuses = {host: server.ask("GET", "/v2/health/live", headers={"Host": host}).status for host in
                    ("10.0.0.1", "[fe80::1]", "photos.example", "evil.example", "localhost")}  # fmt: skip
    assert statuses == {"10.0.0.1": 200, "[fe80::1]": 200, "photos.example": 200, "evil.example": 421, "localhost": 421}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://localhost:{port}"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:{port}.evil.example"}, 403),
        ({"Origin": "file://"}, 403),
    ],
)
def test_row_3_pages_of_other_sites_may_not_post(served: Running, headers: dict[str, str], status: int) -> None:
    sent = {name: value.format(port=served.port) for name, value in headers.items()}
    found = served.post("/predict", picture(), **sent)
    assert found.status == status
    assert not any(name.startswith("access-control") for name in found.headers)
    preflight = served.ask("OPTIONS", "/predict", headers={**sent, "Access-Control-Request-Method": "POST"})
    assert preflight.status in (403, 405) and not any(name.startswith("access-control") for name in preflight.headers)


def test_row_4_a_token_is_needed_in_a_header(closed: Running) -> None:
    paths = ["/models", "/metrics", "/openapi.json", "/v2", "/v2/models/small", "/nothing"]
    wrong = ["", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer", f"Bearer {TOKEN} x"]
    for path in paths:
        for value in wrong:
            found = closed.ask("GET", path, headers={"Authorization": value} if value else {})
            assert found.status == 401 and found.headers["www-authenticate"] == "Bearer", (path, value)
        assert closed.ask("GET", f"{path}?token={TOKEN}").status == 401
    assert closed.ask("GET", "/models", headers={"Authorization": f"Bearer {TOKEN}"}).status == 200
    assert closed.post("/predict", picture(), Authorization=f"bearer {TOKEN}").status == 200
    for path in guard.OPEN:
        found = closed.ask("GET", path)
        assert found.status == 200 and TOKEN.encode() not in found.body
        assert path == "/" or path.startswith(("/page.", "/samples/", "/v2/health/"))
        assert not path.startswith("/v2") or found.body in (b'{"live":true}', b'{"ready":true}')


def test_row_4_tokens_are_compared_in_constant_time() -> None:
    """hmac.compare_digest is the only comparison with the token."""
    source = Path(guard.__file__).read_text("utf-8")
    assert "compare_digest(token.strip().encode(), self.token)" in source
    assert not re.search(r"[!=]= self\.token|self\.token [!=]=", source)


def test_row_4_a_token_that_can_be_guessed_is_refused(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitrail.serving.server.listen", lambda *_: pytest.fail("the server listens"))
    for text in ("", "short", "with a space in it", "\x01" * 20):
        (tmp_path / "token").write_text(text)
        with pytest.raises(ConfigError, match="no token; allowed: 16 characters"):
            serve(bundle, token_file=tmp_path / "token")
    with pytest.raises(ConfigError, match="cannot be read"):
        serve(bundle, token_file=tmp_path / "missing")


STRINGS = [
    "../../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "http://169.254.169.254/latest", "..%2f..%2fetc%2fpasswd",
    "....//....//etc/passwd", "\\\\host\\share", "small/../other", "%00", "small\0", "hf:owner/name", "timm:vit", "~/x", "$HOME",
    "CON", "small ", "smalL", "a" * 300, "\u202e", "model.safetensors",
]  # fmt: skip


def test_rows_5_and_6_no_path_no_address_and_no_connection(served: Running) -> None:
    """Names of files and addresses in every field: refused, and nothing is opened or connected to."""
    from urllib.parse import quote

    served.post("/predict", picture())  # what is imported late is imported
    OPENED.clear()
    statuses = set()
    for text in STRINGS:
        word = quote(text, safe="")
        for query in ("predict?model", "look?model", "look?layer", "look?size", "embed?model"):
            statuses.add(served.post(f"/{query}={word}", picture()).status)
        for path in ("/v2/models/", "/v2/models/small/versions/", "/samples/", "/", "/samples/../"):
            statuses.add(served.ask("GET", path + word).status)
        body = {"images": [text], "model": text, "url": text, "path": text}
        statuses.add(served.post("/predict", json.dumps(body).encode(), "application/json").status)
        asked = {"inputs": [{"name": text, "datatype": "BYTES", "shape": [1], "data": [text]}]}
        statuses.add(served.post("/v2/models/small/infer", json.dumps(asked).encode(), "application/json").status)
    assert statuses <= {400, 404, 415, 422}
    outward = [one for one in OPENED if not ("socket" in one and "127.0.0.1" in one)]  # the test's own client
    assert not outward


def test_row_7_nothing_is_unpickled(served: Running) -> None:
    """tests/conftest.py watches every unpickler; a pickle is refused by its first bytes."""
    import pickle

    for kind in ("image/png", "application/octet-stream"):
        assert served.post("/predict", pickle.dumps({"a": 1}), kind).status == 415
    assert served.post("/predict", pickle.dumps(1), "application/python-pickle").status == 415


def test_row_12_errors_say_nothing_internal(served: Running) -> None:
    """A code, a sentence, an id: no trace, path, version or Server header."""
    answers: list[Answer] = [
        parse(served.raw(b"no request\r\n\r\n")),
        served.ask("GET", "/nothing"),
        served.ask("PUT", "/predict"),
        served.post("/predict", b"no picture"),
        served.post("/predict", b"\xff\xd8\xff" + b"x" * 100),
        served.post("/predict", b"\x89PNG\r\n\x1a\n" + b"x" * 100),
        served.post("/predict", picture()[:300]),
        served.post("/predict", b"", "application/json"),
        served.post("/predict", b"[" * 5000, "application/json"),
        served.post("/predict", b'{"images": [1]}', "application/json"),
        served.post("/predict", b'{"images": ["%%%"]}', "application/json"),
        served.post("/predict", b"--x", "multipart/form-data; boundary=x"),
        served.post("/predict?top=-1", picture()),
        served.post("/predict?top=" + "9" * 5000, picture()),
        served.post("/v2/models/small/infer", b"{}", "application/json"),
        served.post("/v2/models/none/infer", b"{}", "application/json"),
    ]
    for found in answers:
        assert 400 <= found.status < 500, found
        assert found.json["status"] == found.status and re.fullmatch("[0-9a-f]{12}", found.json["id"])
        assert "server" not in found.headers and found.headers["content-type"] == "application/problem+json"
        assert not re.search(
            r"Traceback|File |\.py|/usr|/home|site-packages|0x[0-9a-f]|Error\b|torch|Pillow", found.body.decode()
        )


def test_row_12_a_bug_is_a_500_without_its_words(
    served: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret of the inside")

    monkeypatch.setattr(served.service.models.find("small").engine.__class__, "logits", broken)
    found = served.post("/predict", picture())
    assert found.status == 500 and b"secret" not in found.body and found.json["id"] in caplog.text
    monkeypatch.undo()
    assert served.post("/predict", picture()).status == 200


def test_row_14_the_page_has_headers_against_scripts_of_others(served: Running) -> None:
    for path in ("/", "/page.js", "/models", "/nothing"):
        headers = served.ask("GET", path).headers
        policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
        assert (
            policy["default-src"] == "'none'"
            and policy["script-src"] == "'self'"
            and policy["frame-ancestors"] == "'none'"
        )
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    page = served.ask("GET", "/").body.decode()
    assert not re.search(r"<script(?! src=\"page\.js\")|<style|\son\w+=|style=|https?://(?!arxiv\.org/abs)", page)


def test_a_page_that_the_browser_has_is_not_sent_again(served: Running) -> None:
    for path in ("/", "/page.js", "/page.css", "/openapi.json"):
        first = served.ask("GET", path)
        again = served.ask("GET", path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", first.headers["etag"])
        assert served.ask("GET", path, headers={"If-None-Match": '"other"'}).body == first.body


def test_row_15_metrics_hold_nothing_of_a_request(served: Running) -> None:
    for k in range(40):
        served.ask("GET", f"/path-{k}-secret")
        served.post(f"/predict?model=model-{k}-secret", picture())
    text = served.ask("GET", "/metrics").body.decode()
    assert "secret" not in text and not any(name in text for name in CLASSES)
    labels = set(re.findall(r'route="([^"]*)"', text))
    assert labels <= {path for _, path in __import__("vitrail.serving.app").serving.app.routes()} | {"other"}


def test_row_17_the_container_is_pinned_and_has_no_root() -> None:
    text = (Path(__file__).parents[2] / "deploy" / "Containerfile").read_text("utf-8")
    assert re.search(r"^USER [1-9]\d*", text, re.MULTILINE)
    assert "--no-deps --no-build-isolation /source" in text  # else pip fetches what builds the package, without a hash
    assert "--require-hashes" in text and "BASE=python@sha256:" in text
    assert re.search(r"^ARG BASE$", text, re.MULTILINE)  # no default: who builds names an image by its digest
    assert all(
        line == "FROM ${BASE}" or line == "FROM ${BASE} AS build"
        for line in text.splitlines()
        if line.startswith("FROM")
    )


# --- row 13: what a request looks like on the wire ---

SECOND = b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
SMUGGLED = {
    "two lengths": b"Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
    "length and chunked": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SECOND,
    "negative length": b"Content-Length: -1\r\n\r\n",
    "length with plus": b"Content-Length: +3\r\n\r\nabc",
    "hexadecimal length": b"Content-Length: 0x3\r\n\r\nabc",
    "length in words": b"Content-Length: three\r\n\r\nabc",
    "folded header": b"X-A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
    "space before colon": b"Content-Length : 3\r\n\r\nabc",
    "nul in a header": b"X-A: a\0b\r\nContent-Length: 0\r\n\r\n",
    "other coding": b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "identity coding": b"Transfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n",
    "bad chunk size": b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    "negative chunk": b"Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n",
    "huge chunk": b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\nabc\r\n",
    "bare line feeds": b"Content-Length: 0\nX-A: b\n\n",
    "huge header": b"X-A: " + b"a" * 40_000 + b"\r\n\r\n",
    "ten thousand headers": b"".join(b"X-%d: a\r\n" % k for k in range(10_000)) + b"\r\n",
}


@pytest.fixture(scope="module")
def hasty(bundle: Path) -> Iterator[Running]:
    """A server that waits a second at most for what a client says."""
    with running({"small": bundle}, limits=Limits(headers=1, body=1, answer=20, decode_seconds=10)) as found:
        yield found


@pytest.mark.parametrize("name", SMUGGLED)
def test_row_13_a_request_has_one_reading(hasty: Running, name: str) -> None:
    """One answer, not two: nothing behind a request is taken for another request."""
    raw = hasty.raw(POST + SMUGGLED[name], timeout=12)
    assert raw.count(b"HTTP/1.1 ") <= 1
    assert parse(raw).status in (0, 400, 408, 413, 415, 431, 501) or name in (
        "identity coding",
        "folded header",
        "bare line feeds",
    )
    assert hasty.ask("GET", "/v2/health/ready").status == 200


def test_row_13_headers_are_few(served: Running) -> None:
    """120 small ones are within the bytes of a header, and too many."""
    many = {f"X-{k}": "a" for k in range(120)}
    assert served.ask("GET", "/models", headers=many).status == 431
    assert served.ask("GET", "/models", headers=dict(list(many.items())[:90])).status == 200


def test_row_13_headers_that_do_not_end_are_refused_at_once(bundle: Path) -> None:
    """h11's own limit: without it this client is held until its deadline."""
    with running({"small": bundle}, limits=Limits(headers=2)) as server:
        found = parse(server.raw(POST + b"X-A: " + b"a" * 40_000))
    assert found.status == 431 and found.headers["x-content-type-options"] == "nosniff"


def test_row_13_tiny_chunks_cost_little(served: Running) -> None:
    """CVE-2025-23310: a body in two million parts of one byte stopped all other clients for seconds."""
    head, part = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n", b"1\r\nx\r\n"
    for count, code in ((2000, "unknown-format"), (3000, "bad-request")):
        assert parse(served.raw(head + part * count + b"0\r\n\r\n")).json["code"] == code
    after_its_answer = head.replace(b"/predict", b"/nothing") + part * 3000
    assert parse(served.raw(after_its_answer)).status in (404, 413)
    assert served.ask("GET", "/v2/health/ready").status == 200


def test_row_13_pipelined_requests_are_answered_in_order(served: Running) -> None:
    one = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = b"GET /models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    raw = served.raw(one * 5 + last)
    assert raw.count(b"HTTP/1.1 200") == 6 and raw.rstrip().endswith(b"]}")


def test_row_8_a_body_has_few_images_few_brackets_and_no_compression(served: Running) -> None:
    packed = served.post("/predict", picture(), **{"Content-Encoding": "gzip"})
    assert (packed.status, packed.json["code"]) == (415, "compressed")
    image = base64.b64encode(picture()).decode()
    many = served.post("/predict", json.dumps({"images": [image] * 17}).encode(), "application/json")
    assert (many.status, many.json["code"]) == (413, "too-many")
    deep = served.post("/predict", b'{"images": ' + b"[" * 17 + b"]" * 17 + b"}", "application/json")
    assert (deep.status, deep.json["code"]) == (400, "bad-json")
    for path, values in (("/predict", 300), ("/v2/models/small/infer", 600_000)):
        long = served.post(path, b'{"images": [' + b"1," * values + b"1]}", "application/json")
        assert (long.status, long.json["code"]) == (413, "long-json")


def test_row_8_a_line_of_pixels_is_not_enlarged_to_a_square() -> None:
    """A few bytes: cut out of the middle of 32×64,000 pixels, they would take the server's memory and time."""
    decoders, cut = Decoders(Limits(pixels=100_000, decode_seconds=10), 1), Preprocess(size=(32, 32), resize="crop")
    try:
        with pytest.raises(Problem, match=r"become 32×64,000 before .*allowed: 100,000 pixels") as caught:
            decoders.prepare(picture(0, (2000, 1)), cut)
        assert (caught.value.status, caught.value.code) == (422, "too-many-pixels")
        assert decoders.prepare(picture(0, (60, 40)), cut).shape == (3, 32, 32)
    finally:
        decoders.stop()


def test_row_8_all_bodies_together_are_bounded(bundle: Path) -> None:
    """One client holds 60 kB of a body back; another's 60 kB are then too many, and fit when the first is gone."""
    head = POST + b"Content-Length: 70000\r\n\r\n"
    with running({"small": bundle}, limits=Limits(held_bytes=100_000, body=20, decode_seconds=10)) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as holds:
            holds.sendall(head + b"x" * 60_000)
            assert until(lambda: server.service.bodies.held == 60_000)
            assert server.post("/predict", b"x" * 60_000).status == 503
        assert until(lambda: server.service.bodies.held == 0)
        assert server.post("/predict", b"x" * 60_000).status == 415  # read whole: it is no picture


def test_row_8_a_body_is_read_to_its_limit_and_no_further(bundle: Path) -> None:
    """Declared, lying and chunked lengths of 64 MB: 413 before 128 kB more than the limit were read."""
    limits = Limits(body_bytes=100_000, body=2, decode_seconds=10)
    with running({"small": bundle}, limits=limits) as server:
        assert server.post("/predict", b"x" * 100_001).status == 413
        assert server.post("/predict", b"", **{"Content-Length": "9" * 30}).status in (400, 413)
        declared = POST + b"Content-Length: 100001\r\nConnection: close\r\n\r\n"
        assert parse(server.raw(declared)).status == 413  # at once, and no body was sent
        sent = 0
        head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(head)
            try:
                while sent < 64 << 20:
                    connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                    sent += 65536
            except OSError:
                pass
        assert sent < 16 << 20  # what the kernel's buffers hold
        assert server.service.bodies.held == 0
