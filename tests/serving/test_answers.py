"""Answers over HTTP are those of the package: the same pixels, the same numbers, whatever came with them."""

import base64
import io
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitrail
from tests.support import shapes
from tests.support.serving import CLASSES, CONFIG, NUMBERS, Running, encode, picture, running, save_model
from vitrail.errors import WeightsError
from vitrail.images.decode import decode
from vitrail.images.preprocess import Preprocess
from vitrail.inspection.attention_hooks import watch
from vitrail.inspection.explorer import pool_attention
from vitrail.inspection.maps import rollout_of
from vitrail.models import zoo
from vitrail.prediction.engines import open_engine
from vitrail.serving.limits import Limits
from vitrail.serving.served import open_served, sample_answers, serve_model, write_golden
from vitrail.weights.files.safe import sha256

EXIF = Image.Exif()
EXIF[0x0112] = 6


def kinds() -> dict[str, bytes]:
    """One picture as cameras and programs store it."""
    image = Image.fromarray(np.random.default_rng(5).integers(0, 256, (40, 60, 3), np.uint8))
    clear = image.copy()
    clear.putalpha(Image.linear_gradient("L").resize(image.size))
    deep = Image.fromarray((np.arange(2400, dtype=np.uint16) * 27).reshape(40, 60))
    return {
        "JPEG": encode(image, "JPEG", quality=90),
        "turned by EXIF": encode(image, "JPEG", exif=EXIF),
        "CMYK": encode(image.convert("CMYK"), "JPEG"),
        "grey": encode(image.convert("L"), "PNG"),
        "16 bits": encode(deep, "PNG"),
        "transparent": encode(clear, "PNG"),
        "palette": encode(image.quantize(32), "PNG"),
        "WebP": encode(image, "WEBP", lossless=True),
        "large": encode(image.resize((900, 640)), "JPEG"),
    }


@pytest.mark.oracle
@pytest.mark.parametrize("kind", kinds())
def test_the_answer_is_that_of_predict(served: Running, bundle: Path, tmp_path: Path, kind: str) -> None:
    content = kinds()[kind]
    (tmp_path / "image").write_bytes(content)
    (expected,) = vitrail.predict(bundle, tmp_path / "image", top=4, precision="fp32", batch=1, quiet=True)
    answer = served.post("/predict?top=4", content, "application/octet-stream").json
    (found,) = answer["answers"]
    assert tuple(found["labels"]) == expected.labels
    np.testing.assert_allclose(found["probabilities"], expected.probabilities, rtol=0, atol=1e-7)
    model = answer["model"]
    assert model["sha256"] == sha256(bundle / "model.safetensors") and model["precision"] == "float32"
    assert model["preprocess"]["size"] == [32, 48]


def test_several_images_of_one_request_keep_their_order(served: Running) -> None:
    alone = [served.post("/predict?top=4", picture(seed)).json["answers"][0] for seed in range(6)]
    body = {"images": [base64.b64encode(picture(seed)).decode() for seed in range(6)], "top": 4}
    assert served.post("/predict", json.dumps(body).encode(), "application/json").json["answers"] == alone
    assert served.post("/predict?model=other&top=4", picture(0)).json["answers"][0] != alone[0]


@pytest.mark.parametrize("path", ["/predict", "/embed", "/look"])
def test_the_model_may_be_named_in_the_body(served: Running, path: str) -> None:
    for name, status in (("other", 200), ("none", 404), (3, 400)):
        body = {"images": [base64.b64encode(picture(0)).decode()], "model": name}
        found = served.post(path, json.dumps(body).encode(), "application/json")
        assert found.status == status and (status != 200 or found.json["model"]["name"] == name)


def test_a_model_of_four_channels_is_tried_on_the_drawings() -> None:
    four = Preprocess(size=CONFIG.image, mean=(0.5,) * 4, std=(0.5,) * 4)
    model = zoo.build(replace(CONFIG, channels=4)).eval()
    served = serve_model("four", model, preprocess=four, classes=CLASSES, precision="fp32")
    assert [len(shares) for shares in sample_answers(served).values()] == [4, 4, 4]


@pytest.mark.parametrize("batch", [1, 8])
def test_an_answer_does_not_depend_on_what_came_with_it(bundle: Path, batch: int, sweep: int) -> None:
    """Alone on a CPU: the same bits. In batches: within 1e-6, and never another image's answer."""
    images = [picture(seed) for seed in range(24)]
    with running({"small": bundle}, batch=batch, limits=Limits(decode_seconds=10, answer=30, queue=1000)) as server:
        alone = [server.post("/predict?top=4", image).json["answers"][0] for image in images]
        order = np.random.default_rng(batch).integers(0, len(images), 120 * sweep).tolist()
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda k: server.post("/predict?top=4", images[k]).json["answers"][0], order))
    for k, one in zip(order, found, strict=True):
        assert one["labels"] == alone[k]["labels"]
        bound = 0 if batch == 1 else 1e-6
        np.testing.assert_allclose(one["probabilities"], alone[k]["probabilities"], rtol=0, atol=bound)


@pytest.mark.oracle
def test_features_are_those_of_the_model(served: Running, bundle: Path) -> None:
    model = vitrail.load(bundle)
    pixels = model.record.preprocess.resize_image(decode(picture(3)))[None]
    expected = model.pool(model.features(model.record.preprocess.normalise(pixels)))
    (found,) = served.post("/embed", picture(3)).json["features"]
    np.testing.assert_allclose(found, expected[0].detach(), atol=1e-6)


def unpack(body: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    """The answer of `/look?layer=`, as docs/guides/serve.md describes it."""
    length = int.from_bytes(body[:4], "little")
    header, at, arrays = json.loads(body[4 : 4 + length]), 4 + length, {}
    for one in header["arrays"]:
        size = int(np.prod(one["shape"])) * np.dtype(one["type"]).itemsize
        arrays[one["name"]] = np.frombuffer(body[at : at + size], one["type"]).reshape(one["shape"])
        at += size
    assert at == len(body)
    return header, arrays


@pytest.mark.oracle
def test_maps_are_those_of_inspect(served: Running, bundle: Path) -> None:
    """To one level of 255; rollout too."""
    model = vitrail.load(bundle)
    pixels = model.record.preprocess.resize_image(decode(picture(2)))[None]
    expected = []
    watch(model, pixels, lambda tap: expected.append(pool_attention(tap, [0, 1], (4, 6)).numpy()))
    header, arrays = unpack(served.post("/look?layer=all", picture(2)).body)
    assert header["grid"] == [4, 6] and header["layers"] == [1, 2] and header["heads"] == 2
    assert arrays["maps"].shape == (2, 3, 25, 24)
    levels = 255 * np.sqrt(np.stack(expected) / np.stack(expected).max(-1, keepdims=True))
    assert np.abs(arrays["maps"] - levels).max() <= 1
    np.testing.assert_allclose(arrays["peaks"], np.stack(expected).max(-1), rtol=1e-5)
    flow = rollout_of(model, pixels)[0].flatten().numpy()
    assert np.abs(arrays["rollout"] - 255 * np.sqrt(flow / flow.max())).max() <= 1
    quick = served.post("/look", picture(2)).json
    assert np.array_equal(
        np.frombuffer(base64.b64decode(quick["maps"]), np.uint8).reshape(2, 3, 24), arrays["maps"][:, :, 0]
    )
    assert (
        quick["answers"][0]["probabilities"] == served.post("/predict", picture(2)).json["answers"][0]["probabilities"]
    )
    seen = np.array(Image.open(io.BytesIO(base64.b64decode(quick["seen"]["png"]))))
    assert np.array_equal(seen, pixels[0].permute(1, 2, 0).numpy())


def test_only_the_layers_that_are_asked_for_come(served: Running) -> None:
    header, arrays = unpack(served.post("/look?layer=2", picture(2)).body)
    assert header["layers"] == [2] and arrays["maps"].shape[0] == 1 and "rollout" in arrays
    assert served.post("/look?layer=9", picture(2)).status == 400


def test_without_positions_patches_are_a_bag_of_words(served: Running) -> None:
    """The lecture's experiment: shuffled patches change the answer with positions, and not without."""
    model_size = (48, 32)
    image = np.array(Image.open(io.BytesIO(picture(4, model_size))))
    patches = image.reshape(4, 8, 6, 8, 3).transpose(0, 2, 1, 3, 4).reshape(24, 8, 8, 3)
    shuffled = patches[np.random.default_rng(0).permutation(24)]
    mixed = shuffled.reshape(4, 6, 8, 8, 3).transpose(0, 2, 1, 3, 4).reshape(32, 48, 3)
    shares = {}
    for name, pixels in (("plain", image), ("mixed", mixed)):
        for positions in ("on", "off"):
            body = encode(Image.fromarray(np.ascontiguousarray(pixels)))
            answer = served.post(f"/look?top=4&positions={positions}", body).json["answers"][0]
            shares[name, positions] = dict(zip(answer["labels"], answer["probabilities"], strict=True))
    assert set(shares["plain", "off"]) == set(CLASSES)
    for name in CLASSES:
        assert abs(shares["plain", "off"][name] - shares["mixed", "off"][name]) < 1e-5
    assert max(abs(shares["plain", "on"][name] - shares["mixed", "on"][name]) for name in CLASSES) > 1e-3


def test_another_resolution_is_the_model_at_that_size(served: Running, bundle: Path) -> None:
    answer = served.post("/look?top=4&size=80", picture(1)).json
    assert answer["seen"]["size"] == [56, 80] and answer["grid"] == [7, 10]
    model = vitrail.load(bundle)
    pixels = replace(model.record.preprocess, size=(56, 80)).resize_image(decode(picture(1)))[None]
    with torch.no_grad():
        expected = model(model.record.preprocess.normalise(pixels)).softmax(1)[0]
    np.testing.assert_allclose(answer["answers"][0]["probabilities"], expected.sort(descending=True).values, atol=1e-6)
    assert served.post("/look?size=4000", picture(1)).status == 400


@pytest.mark.oracle
def test_a_model_of_numbers_answers_with_its_number(tmp_path: Path) -> None:
    """The value of `vitrail predict`, on every route; golden answers tell other weights."""
    folder = save_model(tmp_path / "numbers", config=NUMBERS, numeric=True, classes=())
    write_golden(folder)
    (tmp_path / "image.png").write_bytes(picture(1))
    (expected,) = vitrail.predict(folder, tmp_path / "image.png", precision="fp32", batch=1, quiet=True)
    asked = {
        "inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(picture(1)).decode()]}]
    }
    with running({"numbers": folder}) as server:
        for path in ("/predict", "/look"):
            assert server.post(path, picture(1)).json["answers"] == [{"value": pytest.approx(expected.value, abs=1e-6)}]
        found = server.post("/v2/models/numbers/infer", json.dumps(asked).encode(), "application/json").json
        described = server.ask("GET", "/v2/models/numbers").json
    (output,) = found["outputs"]
    assert output["name"] == "logits" and output["data"] == [pytest.approx(expected.value, abs=1e-6)]
    assert [one["name"] for one in described["outputs"]] == ["logits"]
    save_model(folder, seed=9, config=NUMBERS, numeric=True, classes=())
    with pytest.raises(WeightsError, match="golden"):
        open_served("numbers", str(folder))


def test_the_models_are_described(served: Running) -> None:
    first, second = served.ask("GET", "/models").json["models"]
    assert (first["name"], second["name"]) == ("small", "other")
    assert first["labels"] == list(CLASSES) and first["layers"] == 2 and first["positions"]


@pytest.mark.oracle
def test_an_exported_graph_is_served_too(bundle: Path, tmp_path: Path) -> None:
    """Labels are the model's, and the page has them too; maps and features are missing with a sentence."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="exported graphs need the extra: pip install 'vitrail[export]'")
    graph = tmp_path / "small.onnx"
    with shapes.unchecked():  # checks of shapes would stop the tracing of a graph
        vitrail.export(bundle, out=graph)
    with running({"model": bundle, "graph": graph}) as server:
        ours, theirs = (server.post(f"/predict?top=4&model={name}", picture(1)).json for name in ("model", "graph"))
        for path in ("/look?positions=off&", "/embed?"):
            assert server.post(f"{path}model=graph", picture(1)).status == 422
        looked = server.post("/look?top=4&model=graph", picture(1)).json
    assert looked["answers"] == theirs["answers"] and not looked["maps"] and "no maps" in looked["missing"]
    assert theirs["model"]["engine"].startswith("onnxruntime")
    assert theirs["model"]["sha256"] == open_engine(graph).digest
    assert theirs["answers"][0]["labels"] == ours["answers"][0]["labels"]
    np.testing.assert_allclose(theirs["answers"][0]["probabilities"], ours["answers"][0]["probabilities"], atol=1e-4)


def test_an_answer_does_not_wait_for_the_client_s_acknowledgement(served: Running) -> None:
    """Without TCP_NODELAY every answer on a connection that stays open takes 40 ms more."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        (ours,) = served.server.server_state.connections
        theirs = ours.transport.get_extra_info("socket")
        assert theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
