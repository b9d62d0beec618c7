"""Things break on purpose: pictures, clients, children, weights. Promises are counts."""

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.serving import Running, encode, parse, picture, running, save_model, until
from vitrail.errors import ConfigError, WeightsError
from vitrail.serving import decoder
from vitrail.serving.limits import Limits
from vitrail.serving.served import open_served, write_golden

pytestmark = pytest.mark.fault


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def png_of(width: int, height: int) -> bytes:
    """A small file that declares a large picture, and holds it: zeros compress well."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    line = bytes(1 + width // 8 + 1)
    body = b"".join(packer.compress(line) for _ in range(min(height, 2_000))) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def bombs() -> dict[str, bytes]:
    many = [Image.new("RGB", (64, 64), (k, k, k)) for k in range(200)]
    return {
        "50,000 × 50,000": png_of(50_000, 50_000),
        "one line": png_of(1_000_000_000, 1),
        "one column": png_of(1, 1_000_000_000),
        "just above": png_of(5_001, 5_000),
        "text of 100 MB": picture()[:33] + b"".join(_ztxt(k) for k in range(10)) + picture()[33:],
        "gif": encode(many[0], "GIF"),
        "tiff": encode(many[0], "TIFF"),
        "bmp": encode(many[0], "BMP"),
        "cut": picture(0, (200, 200))[:5000],
        "header only": picture()[:33],
    }


def _ztxt(k: int) -> bytes:
    content = b"k%d\0\0" % k + zlib.compress(bytes(10 << 20))
    return struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))


def test_bombs_are_refused_and_the_server_stays_small(served: Running, sweep: int) -> None:
    """Row 8: limits before memory is asked for. The children have their own limit."""
    files = bombs()
    for _ in range(3):
        served.post("/predict", picture(0, (2000, 1500), "JPEG"))
    before, children = resident(os.getpid()), served.service.decoders.restarts
    statuses = Counter()
    for _ in range(2 * sweep):
        for name, content in files.items():
            found = served.post("/predict", content)
            statuses[found.status] += 1
            assert found.status in (415, 422), (name, found)
            assert name != "just above" or found.json["code"] == "too-many-pixels"
    assert served.post("/predict", picture()).status == 200
    grown = resident(os.getpid()) - before
    print(f"\nbombs: {dict(statuses)}, memory grew by {grown >> 20} MiB")
    assert grown < 48 << 20 and served.service.decoders.restarts - children <= statuses.total()


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "PPM"])
def test_other_formats_do_not_reach_a_child(served: Running, kind: str) -> None:
    """Row 9: a picture of a format that is not decoded is refused by its first bytes."""
    assert served.post("/predict", encode(Image.new("RGB", (8, 8)), kind)).json["code"] == "unknown-format"


def test_damaged_pictures_are_refused_one_by_one(served: Running, sweep: int) -> None:
    """S1: every answer is 200, 415 or 422, and the server answers good pictures all along."""
    draws, pid, statuses = np.random.default_rng(0), os.getpid(), Counter()
    seeds = [picture(0, (64, 48), kind) for kind in ("PNG", "JPEG", "WEBP")]
    for case in range(60 * sweep):
        content = bytearray(seeds[case % 3])
        for _ in range(int(draws.integers(1, 6))):
            content[int(draws.integers(8, len(content)))] = int(draws.integers(256))
        statuses[served.post("/predict", bytes(content[: int(draws.integers(20, len(content) + 1))])).status] += 1
    print(f"\n{statuses.total()} damaged pictures: {dict(statuses)}")
    assert set(statuses) <= {200, 415, 422} and os.getpid() == pid
    assert served.post("/predict", picture()).status == 200


def test_a_child_can_open_no_file_and_no_socket(tmp_path: Path) -> None:
    """Row 9: after `confine` the kernel refuses every descriptor and more memory than the limit."""
    script = f"""
import socket
from vitrail.serving.decode_child import confine
confine(2 << 30)
tried = []
new = {str(tmp_path / "x")!r}
for act in (lambda: open(new, "w"), lambda: open("/etc/passwd"), lambda: socket.socket(), lambda: bytearray(3 << 30)):
    try:
        act()
    except (OSError, MemoryError) as error:
        tried.append(type(error).__name__)
print(tried)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "['OSError', 'OSError', 'OSError', 'MemoryError']"


def test_a_killed_or_stopped_child_is_replaced(bundle: Path, sweep: int) -> None:
    """S10: kill -9 of a child costs no request; one that hangs is killed and the request is answered by another."""
    with running({"small": bundle}, limits=Limits(decode_seconds=1, answer=20)) as server:
        children = server.service.decoders.children
        for attempt in range(6 * sweep):
            os.kill(children[attempt % len(children)].pid, signal.SIGKILL)
            assert server.post("/predict", picture(attempt)).status == 200
        assert until(lambda: server.ask("GET", "/v2/health/ready").status == 200)
        for child in children:
            os.kill(child.pid, signal.SIGSTOP)
        assert server.post("/predict", picture()).status == 200
        assert server.service.decoders.restarts >= 6 * sweep + 1


def test_modules_of_the_current_folder_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("random", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    child = decoder.Child(Limits())
    try:
        child.wait_ready()
    finally:
        child.stop()


def test_a_decoder_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(ConfigError, match="the process that decodes images does not start"):
        decoder.Decoders(Limits(), 2)


def test_a_picture_that_takes_too_long_is_refused() -> None:
    """The kernel ends a child that spends its processor time; the clock ends one that waits. A good picture follows."""
    script = "from vitrail.serving.decode_child import allow\nallow(0.1)\nwhile True: pass"
    done = subprocess.run([sys.executable, "-c", script], timeout=60)
    assert done.returncode == -signal.SIGXCPU
    child = decoder.Child(Limits(decode_seconds=0.2))
    try:
        child.wait_ready()
        with pytest.raises(decoder.Problem):
            child.pixels(encode(Image.new("RGBA", (5000, 4900)), compress_level=1), (255, 255, 255))
        child.limits = Limits(decode_seconds=10)
        assert child.pixels(picture(), (255, 255, 255)).shape == (40, 60, 3)
    finally:
        child.stop()


@pytest.mark.parametrize("what", ["headers", "body", "nothing", "later headers"])
def test_slow_clients_are_closed_at_an_absolute_deadline(bundle: Path, what: str, sweep: int) -> None:
    """Row 10: a byte now and then does not help, and a good client is answered meanwhile."""
    limits = Limits(headers=1, body=1, answer=10, decode_seconds=10)
    start = {
        "nothing": b"",
        "headers": b"POST /predict HTTP/1.1\r\nHost: localhost\r\nX-A: ",
        "later headers": b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\nGET /v2 HTTP/1.1\r\nX-A: ",
        "body": b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n",
    }[what]
    with running({"small": bundle}, limits=limits) as server:
        clients = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(40 * sweep)]
        for client in clients:
            client.sendall(start)
        began, open_, good = time.monotonic(), list(clients), 0
        while open_ and time.monotonic() - began < 15:
            good += server.post("/predict", picture()).status == 200
            for client in list(open_):
                try:
                    if what != "nothing":
                        client.sendall(b"x")
                    client.settimeout(0.001)
                    if not client.recv(4096):
                        open_.remove(client)
                except TimeoutError:
                    pass
                except OSError:
                    open_.remove(client)
        for client in clients:
            client.close()
        assert not open_ and good > 0
        assert until(lambda: len(server.server.server_state.connections) == 0)


def test_a_client_that_does_not_read_is_closed(bundle: Path) -> None:
    """Row 10, the reading of the answer: 200 answers of maps wait in a full socket."""
    limits = Limits(headers=2, body=1, answer=1, reading=1, decode_seconds=10)
    with running({"small": bundle}, limits=limits) as server:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.settimeout(1)
        asked = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000
        with contextlib.suppress(OSError):
            client.sendall(asked)
        assert until(lambda: len(server.server.server_state.connections) == 0, 15)
        client.close()
        assert server.post("/predict", picture()).status == 200


def test_more_connections_than_allowed_get_503(bundle: Path) -> None:
    with running({"small": bundle}, limits=Limits(connections=20, headers=30, decode_seconds=10)) as server:
        held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
        assert until(lambda: len(server.server.server_state.connections) == 20)
        found = parse(server.raw(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        assert found.status == 503 and found.headers["retry-after"]
        for one in held:
            one.close()
        assert until(lambda: server.ask("GET", "/v2").status == 200)


class Slow:
    """Makes the model's thread take so long for every image, and counts."""

    def __init__(self, server: Running, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.computed = 0
        kind = type(server.service.models.find("small").engine)
        fast: Callable = kind.logits

        def logits(engine, images):
            self.computed += len(images)
            time.sleep(seconds * len(images))
            return fast(engine, images)

        monkeypatch.setattr(kind, "logits", logits)


def test_overload_is_refused_at_once_and_nothing_is_lost(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, sweep: int
) -> None:
    """S5: every request is answered 200 or 503 with Retry-After; those that are answered were computed, and in time."""
    limits = Limits(queue=8, answer=3, decode_seconds=10)
    with running({"small": bundle}, limits=limits) as server:
        slow = Slow(server, 0.03, monkeypatch)

        def ask(seed: int) -> tuple[int, float]:
            began = time.monotonic()
            found = server.post("/predict", picture(seed % 5))
            assert found.status != 503 or int(found.headers["retry-after"]) >= 1
            return found.status, time.monotonic() - began

        with ThreadPoolExecutor(48) as pool:
            found = list(pool.map(ask, range(240 * sweep)))
        counts = Counter(status for status, _ in found)
        refused = sorted(seconds for status, seconds in found if status == 503)
        print(f"\noverload: {dict(counts)}, refused after {refused[len(refused) // 2]:.3f} s at the median")
        assert set(counts) == {200, 503} and 8 <= counts[200] <= slow.computed <= counts[200] / 0.9
        assert max(seconds for status, seconds in found if status == 200) < limits.answer + 5
        assert server.service.batcher.waiting == 0


def test_an_answer_that_is_late_is_a_refusal(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 10: never a 200 after the deadline of the answer. S10: no client is sent to a model that does not answer."""
    with running({"small": bundle}, limits=Limits(answer=0.3, decode_seconds=10)) as server:
        Slow(server, 1.5, monkeypatch)
        assert server.post("/predict", picture()).status == 503
        assert until(lambda: server.ask("GET", "/v2/health/ready").status == 503, 2)
        assert until(lambda: server.ask("GET", "/v2/health/ready").status == 200)


def test_a_body_is_held_until_its_answer(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 8: pictures that wait for the model count among the bodies that are held at once."""
    image = picture(0, (160, 160))
    with running({"small": bundle}, limits=Limits(held_bytes=100_000, answer=20, decode_seconds=10)) as server:
        slow = Slow(server, 1, monkeypatch)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(server.post, "/predict", image)
            assert until(lambda: slow.computed == 1)
            assert server.post("/predict", image).status == 503
            assert first.result().status == 200
        assert server.service.bodies.held == 0


def test_a_second_signal_waits_for_no_client(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    begun = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\nx"
    with running({"small": bundle}, limits=Limits(drain=60, body=60)) as server:
        client = socket.create_connection(("127.0.0.1", server.port))
        client.sendall(begun)
        assert until(lambda: server.service.bodies.held == 1)
        server.server.stop()
        server.server.stop()
        assert until(lambda: not server.server.server_state.connections, 5)
        client.close()
    assert not caplog.records


def test_work_that_nobody_waits_for_is_not_computed(bundle: Path, monkeypatch: pytest.MonkeyPatch, sweep: int) -> None:
    """S6: clients that went away while they were queued."""
    with running({"small": bundle}, limits=Limits(queue=500, answer=30, decode_seconds=10)) as server:
        server.post("/predict", picture())
        slow, gone = Slow(server, 0.2, monkeypatch), 40 * sweep
        clients = []
        body = picture()
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n\r\n"
        server.service.batcher.each = 0.0  # else the queue is refused as too slow
        for _ in range(gone):
            client = socket.create_connection(("127.0.0.1", server.port))
            client.sendall(head.encode() + body)
            clients.append(client)
        assert until(lambda: server.service.batcher.waiting > gone // 2)
        for client in clients:
            client.close()
        assert until(lambda: server.service.batcher.waiting == 0)
        assert server.post("/predict", picture()).status == 200
        print(f"\n{gone} clients went away: {slow.computed - 1} images computed")
        assert slow.computed < gone // 2


def damage(folder: Path, how: str) -> None:
    """Makes a bundle one that must not be taken in."""
    tensors, record = folder / "model.safetensors", folder / "record.json"
    content = bytearray(tensors.read_bytes())
    if how == "a flipped bit":
        content[-100] ^= 1
        tensors.write_bytes(content)
    elif how == "cut":
        tensors.write_bytes(content[:-1000])
    elif how == "empty":
        tensors.write_bytes(b"")
    elif how == "no record":
        record.unlink()
    elif how == "no JSON":
        record.write_text("{")
    elif how == "gone":
        tensors.unlink()
    elif how == "not finite":
        import torch

        import vitrail
        from vitrail.weights.bundle import save_bundle

        model = vitrail.load(folder)
        with torch.no_grad():
            model.head.weight[0, 0] = float("nan")
        save_bundle(folder, model, model.record)
    elif how == "no golden answers":
        (folder / "golden.json").write_text('{"bird": 3}')
    elif how == "other answers":
        save_model(folder, seed=99)  # whole and finite, but golden.json is another model's


BAD = [
    "a flipped bit",
    "cut",
    "empty",
    "no record",
    "no JSON",
    "gone",
    "not finite",
    "other answers",
    "no golden answers",
]


@pytest.mark.parametrize("how", BAD)
def test_bad_weights_do_not_open(tmp_path: Path, how: str) -> None:
    """Row 16: sha256, finite, golden answers."""
    folder = save_model(tmp_path / "model")
    write_golden(folder)
    open_served("model", str(folder))
    damage(folder, how)
    with pytest.raises(Exception) as caught:
        open_served("model", str(folder))
    assert isinstance(caught.value, WeightsError) or how in ("no JSON", "empty")


def test_models_are_swapped_under_load(tmp_path: Path, sweep: int) -> None:
    """S7: no request fails, every answer is that of the model it names, bad weights change nothing."""
    folder = save_model(tmp_path / "model")
    swaps, bad = 10 * sweep, 3 if sweep == 1 else 20
    bad_at = set(np.linspace(1, swaps - 1, bad).astype(int).tolist())
    expected: dict[str, list] = {}
    answers: list[tuple[str, list]] = []
    statuses, stop = Counter(), threading.Event()
    with running({"model": folder}, limits=Limits(queue=500, answer=30, decode_seconds=10)) as server:

        def learn() -> None:
            found = server.post("/predict?top=4", picture()).json
            expected[found["model"]["sha256"]] = found["answers"]

        def load() -> None:
            while not stop.is_set():
                found = server.post("/predict?top=4", picture())
                statuses[found.status] += 1
                answers.append((found.json["model"]["sha256"], found.json["answers"]))

        learn()
        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        good = folder
        for swap in range(swaps):
            save_model(folder, seed=swap + 1)
            if swap in bad_at:
                damage(folder, BAD[swap % 5])
            server.service.models.reload()
            learn()
        stop.set()
        for thread in threads:
            thread.join()
        models = server.service.models
        print(
            f"\n{swaps} swaps, {bad} bad: {models.swapped} taken in, {models.refused} refused; requests {dict(statuses)}"
        )
        assert (models.swapped, models.refused) == (swaps - bad, bad)
    assert set(statuses) == {200} and good.is_dir()
    assert len(expected) == swaps - bad + 1
    assert all(expected[digest] == answer for digest, answer in answers)


def test_a_watched_folder_is_taken_in_by_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save_model(tmp_path / "model")
    with running({"model": folder}, watch=0.1) as server:
        before = server.ask("GET", "/models").json["models"][0]["sha256"]
        save_model(folder, seed=5)
        assert until(lambda: server.ask("GET", "/models").json["models"][0]["sha256"] != before)
        assert until(lambda: "answer from now on" in caplog.text)
        save_model(folder, seed=5, classes=("a", "b", "c", "d"))  # the same weights, other names
        assert until(lambda: server.ask("GET", "/models").json["models"][0]["labels"] == ["a", "b", "c", "d"])
        damage(folder, "a flipped bit")
        assert until(lambda: server.service.models.refused == 1)
        time.sleep(0.5)
        assert server.service.models.refused == 1  # looked at once, not every tenth of a second
        assert server.post("/predict", picture()).status == 200


@pytest.fixture(scope="module")
def command(bundle: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "vitrail",
        "serve",
        str(bundle),
        "--port",
        "0",
        "--precision",
        "fp32",
        "--device",
        "cpu",
    ]


def start(command: list[str]) -> tuple[subprocess.Popen[str], int]:
    """The command in a process, and its port."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    status = Path(f"/proc/{process.pid}/status")
    assert until(lambda: int(status.read_text().partition("SigIgn:")[2].split()[0], 16) & 1, 60)
    process.send_signal(signal.SIGHUP)  # while it reads the models
    line = process.stderr.readline()
    assert line.startswith("http://127.0.0.1:"), line
    return process, int(line.split(":")[2].split("/")[0])


@pytest.mark.flow
def test_sighup_reloads_and_sigterm_drains(command: list[str], tmp_path: Path) -> None:
    """S11: what was admitted is answered, what comes later is refused, the process ends with 0. S15: only loopback."""
    folder = save_model(tmp_path / "model")
    command = [str(folder) if "small" in word else word for word in command]
    process, port = start(command)
    server = Running(port, None, None)  # pyrefly: ignore[bad-argument-type]
    try:
        listening = Path(f"/proc/{process.pid}/net/tcp").read_text().splitlines()[1:]
        ours = [
            line.split() for line in listening if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
        ]
        assert [fields[1] for fields in ours] == [f"0100007F:{port:04X}"]
        before = server.ask("GET", "/models").json["models"][0]["sha256"]
        save_model(folder, seed=3)
        process.send_signal(signal.SIGHUP)
        assert until(lambda: server.ask("GET", "/models").json["models"][0]["sha256"] != before)
        assert server.ask("GET", "/v2/health/ready").status == 200
        body = picture(0, (1200, 900))
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda: statuses.append(server.post("/predict", body).status)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        assert until(lambda: b"vitrail_waiting 0.0" not in server.ask("GET", "/metrics").body or len(statuses) == 8)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert process.wait(20) == 0
        assert set(statuses) <= {200, 503, 0} and 200 in statuses
    finally:
        process.kill()
        process.communicate()


@pytest.mark.flow
def test_ready_tells_the_truth(bundle: Path) -> None:
    with running({"small": bundle}, limits=Limits(drain=1)) as server:
        assert server.ask("GET", "/v2/health/ready").status == 200
        server.service.draining = True
        assert server.ask("GET", "/v2/health/ready").status == 503
        assert server.post("/predict", picture()).status == 503
        assert server.ask("GET", "/v2/health/live").status == 200
        server.service.draining = False
        server.service.batcher.stop()
        assert server.ask("GET", "/v2/health/ready").status == 503
