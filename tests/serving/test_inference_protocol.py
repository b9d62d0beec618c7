"""The Open Inference Protocol: Triton's own client, and requests written by hand from the specification."""

import asyncio
import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitrail
from tests.support.serving import Running, picture
from vitrail.images.decode import decode

URL = "/v2/models/small/infer"


def ask(served: Running, **given: object) -> dict:
    body = {
        "id": "7",
        "inputs": [{"name": "image", **given}],
        "outputs": [{"name": name} for name in ("probabilities", "logits", "labels")],
    }
    found = served.post(URL, json.dumps(body).encode(), "application/json")
    return {"status": found.status, **found.json}


@pytest.fixture
def expected(bundle: Path) -> np.ndarray:
    model = vitrail.load(bundle)
    pixels = model.record.preprocess.resize_image(decode(picture(1)))[None]
    return model(model.record.preprocess.normalise(pixels)).detach().numpy()[0]


@pytest.mark.oracle
def test_three_kinds_of_input_have_one_answer(served: Running, bundle: Path, expected: np.ndarray) -> None:
    preprocess = vitrail.load(bundle).record.preprocess
    image = np.array(Image.open(io.BytesIO(picture(1))))
    ready = preprocess.normalise(preprocess.resize_image(image)[None]).numpy()
    for given in (
        {"datatype": "BYTES", "shape": [1], "data": [base64.b64encode(picture(1)).decode()]},
        {"datatype": "UINT8", "shape": [1, *image.shape], "data": image.ravel().tolist()},
        {"datatype": "UINT8", "shape": [1, *image.shape], "data": image[None].tolist()},
        {"datatype": "FP32", "shape": list(ready.shape), "data": ready.ravel().tolist()},
    ):
        images = served.service.metrics.images.labels("small")._value
        before, found = images.get(), ask(served, **given)
        assert images.get() == before + 1
        assert found["status"] == 200 and found["model_name"] == "small" and found["id"] == "7"
        facts = served.service.models.find("small").about
        assert found["parameters"]["sha256"] == facts["sha256"] and found["parameters"]["precision"] == "float32"
        assert json.loads(found["parameters"]["preprocess"])["size"] == list(facts["preprocess"]["size"])
        outputs = {one["name"]: one for one in found["outputs"]}
        np.testing.assert_allclose(outputs["logits"]["data"], expected, atol=1e-5)
        assert outputs["probabilities"]["shape"] == [1, 4] and outputs["probabilities"]["datatype"] == "FP32"
        assert abs(sum(outputs["probabilities"]["data"]) - 1) < 1e-6
        assert outputs["labels"]["data"] == [served.service.models.find("small").classes[expected.argmax()]]


@pytest.mark.oracle
@pytest.mark.parametrize("binary", [False, True])
def test_tritons_client_is_answered(served: Running, expected: np.ndarray, binary: bool) -> None:
    client_of = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")
    client = client_of.InferenceServerClient(f"127.0.0.1:{served.port}")
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("small")
    described = client.get_model_metadata("small")
    assert described["name"] == "small" and described["versions"] == [served.service.models.find("small").version]
    image = np.array(Image.open(io.BytesIO(picture(1))))[None]
    given = client_of.InferInput("image", list(image.shape), "UINT8")
    given.set_data_from_numpy(image, binary_data=binary)
    wanted = [client_of.InferRequestedOutput(name, binary_data=binary) for name in ("logits", "labels")]
    found = client.infer("small", [given], outputs=wanted, request_id="9")
    np.testing.assert_allclose(found.as_numpy("logits")[0], expected, atol=1e-5)
    assert found.get_response()["id"] == "9"
    label = found.as_numpy("labels")[0]
    assert (label.decode() if isinstance(label, bytes) else label) == served.service.models.find("small").classes[
        expected.argmax()
    ]
    encoded = client_of.InferInput("image", [2], "BYTES")
    if binary:
        encoded.set_data_from_numpy(np.array([picture(1), picture(2)], dtype=np.object_), binary_data=True)
        found = client.infer("small", [encoded])
        assert found.as_numpy("probabilities").shape == (2, 4)
    with pytest.raises(client_of.InferenceServerException, match="no model of that name"):
        client.infer("none", [given])
    client.close()


def test_health_is_answered_as_the_protocol_has_it(served: Running) -> None:
    """`live` and `ready` are fields of the body: KServe's client reads them, not the status."""
    assert served.ask("GET", "/v2/health/live").json == {"live": True}
    assert served.ask("GET", "/v2/health/ready").json == {"ready": True}
    assert served.ask("GET", "/v2/models/small/ready").json == {"name": "small", "ready": True}


@pytest.mark.parametrize("binary", [False, True])
def test_kserve_s_client_is_answered(served: Running, expected: np.ndarray, binary: bool) -> None:
    kserve = pytest.importorskip("kserve", reason="KServe's client is 60 packages, and in no extra: pip install kserve")
    image = np.array(Image.open(io.BytesIO(picture(1))))[None]

    async def ask_all() -> np.ndarray:
        client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2", retries=0))
        assert await client.is_server_live(served.url) and await client.is_server_ready(served.url)
        assert await client.is_model_ready(served.url, "small")
        given = kserve.InferInput("image", list(image.shape), "UINT8")
        given.set_data_from_numpy(image, binary_data=binary)
        output = kserve.InferRequest("small", [given], parameters={"binary_data_output": binary})
        found = await client.infer(served.url, output, model_name="small")
        await client.close()
        return found.get_output_by_name("probabilities").as_numpy()

    shares = np.exp(expected - expected.max())
    np.testing.assert_allclose(asyncio.run(ask_all())[0], shares / shares.sum(), atol=1e-5)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"datatype": "FP64", "shape": [1], "data": [1]},
        {"datatype": ["BYTES"], "shape": [1], "data": [1]},
        {"datatype": "BYTES", "shape": [2], "data": ["aGk="]},
        {"datatype": "BYTES", "shape": [1], "data": [7]},
        {"datatype": "BYTES", "shape": [-1], "data": []},
        {"datatype": "BYTES", "shape": [True], "data": ["aGk="]},
        {"datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [1] * 11},
        {"datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [1.5] * 12},
        {"datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [256] * 12},
        {"datatype": "UINT8", "shape": [1, 2, 2, 3], "data": ["a"] * 12},
        {"datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [[1], [1, 2]]},
        {"datatype": "UINT8", "shape": [1, 65536, 65536, 3], "data": []},
        {"datatype": "FP32", "shape": [1, 3, 8, 8], "data": [0.5] * 192},
        {"datatype": "FP32", "shape": [1, 3, 32, 48], "data": ["1"] * 4608},
        {"datatype": "FP32", "shape": [1, 3, 32, 48], "data": [True] * 4608},
        {"datatype": "FP32", "shape": [1, 3, 32, 48], "data": [1e300] * 4608},
        {"datatype": "BYTES", "shape": [1], "data": ["aGk="], "parameters": {"binary_data_size": 5}},
    ],
)
def test_inputs_that_do_not_fit_are_refused(served: Running, given: dict) -> None:
    found = ask(served, **given)
    assert found["status"] in (400, 415, 422) and found["error"] == found["detail"]


def test_many_images_outputs_and_versions(served: Running) -> None:
    many = [base64.b64encode(picture(0)).decode()] * 17
    assert ask(served, datatype="BYTES", shape=[17], data=many)["status"] == 413
    body: dict = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": many[:1]}]}
    for outputs in (
        [{"name": "secret"}],
        [{"name": ["labels"]}],
        [{"name": "labels"}] * 2,
        [{"name": "labels"}] * 9,
        {"a": 1},
    ):
        body["outputs"] = outputs
        assert served.post(URL, json.dumps(body).encode(), "application/json").status == 400
    version = served.service.models.find("small").version
    del body["outputs"]
    for path, status in (
        (f"/v2/models/small/versions/{version}/infer", 200),
        ("/v2/models/small/versions/1/infer", 404),
    ):
        assert served.post(path, json.dumps(body).encode(), "application/json").status == status
    assert served.ask("GET", f"/v2/models/small/versions/{version}/ready").status == 200
    assert served.ask("GET", "/v2").json["extensions"] == ["binary_tensor_data"]


def test_answers_are_those_of_the_schema(served: Running) -> None:
    """openapi.json names every route that is no file of the page, and its schemas hold for real answers."""
    schema = served.ask("GET", "/openapi.json").json
    from vitrail.serving.app import routes

    ours = {path for _, path in routes() if path.count("/") == 1 and "." not in path and path not in ("/", "/v2")}
    assert ours <= set(schema["paths"])
    for path, kind in (("/predict", "Prediction"), ("/embed", "Embedding"), ("/look", "Look")):
        found = served.post(path, picture()).json
        wanted = schema["components"]["schemas"][kind]
        assert set(wanted["required"]) <= set(found)
        for name, part in wanted["properties"].items():
            types = {"array": list, "integer": int, "string": str, "object": dict, "null": type(None)}
            kinds = [part["type"]] if isinstance(part.get("type"), str) else part.get("type", ["object"])
            assert name not in found or isinstance(found[name], tuple(types[one] for one in kinds)), name
