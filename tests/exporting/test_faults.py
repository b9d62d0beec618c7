"""Faults of real exports, put in one by one: each is refused, by its own check, and by no other.

Seven change the graph or its facts. The eighth, a flipped byte, is in the file.

A fault of which the check is left out passes that gate or is told in other words: so every check is needed.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.exporting.conftest import CLASSES, UNEVEN, graph_of, pictures, subject_of
from vitrail.errors import WeightsError
from vitrail.exporting import onnx_file
from vitrail.exporting.gate import CHECKS, Case, certify
from vitrail.exporting.onnx_file import blank, export_onnx
from vitrail.models.backbone import Backbone
from vitrail.prediction import onnx_engine
from vitrail.prediction.artefact import Exported, seal_onnx
from vitrail.prediction.onnx_engine import open_onnx

pytestmark = pytest.mark.fault
onnx = pytest.importorskip("onnx", reason="needs vitrail[export]")
pytest.importorskip("onnxscript", reason="needs vitrail[export]")
pytest.importorskip("onnxruntime", reason="needs vitrail[export]")


@dataclass(frozen=True)
class Fault:
    """A wrong graph, the check that finds it, and the sentence by which it is refused."""

    spoil: Callable[[Any], object]
    """Changes the ONNX model, or gives other facts for it."""
    check: str
    message: str


def frozen_batch(graph: Any) -> None:
    """As `len(tensor)` did: the batch of the trace is a constant."""
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3


def resize_of(graph: Any) -> Any:
    """The node that resizes positions."""
    return next(node for node in graph.graph.node if node.op_type == "Resize")


def wrong_resize(graph: Any) -> None:
    """Positions by the nearest, where the model is bilinear: right at the native size only."""
    (mode,) = (attribute for attribute in resize_of(graph).attribute if attribute.name == "mode")
    assert mode.s == b"linear"
    mode.s = b"nearest"


def traced(graph: Any) -> None:
    """As a tracer does: positions are resized to the traced grid, whatever the image."""
    sizes = onnx.numpy_helper.from_array(np.array([1, 32, 4, 3]), "traced_sizes")
    graph.graph.initializer.append(sizes)
    resize_of(graph).input[3] = "traced_sizes"


def native_refused(graph: Any) -> None:
    """As a guard of torch.export does: every height but the model's own. (A gather whose index is out of range there.)"""
    make = onnx.helper.make_node
    native = onnx.numpy_helper.from_array(np.array([32]), "native")
    graph.graph.initializer.extend([native, onnx.numpy_helper.from_array(np.zeros(1, np.float32), "nothing")])
    first = graph.graph.node[0]
    nodes = [
        make("Shape", ["images"], ["guard_height"], start=2, end=3),
        make("Equal", ["guard_height", "native"], ["guard_fails"]),
        make("Cast", ["guard_fails"], ["guard_index"], to=onnx.TensorProto.INT64),
        make("Gather", ["nothing", "guard_index"], ["guard_zero"]),
        make("Add", ["logits_unguarded", "guard_zero"], ["logits"]),
    ]
    rename_output(graph, "logits_unguarded")
    graph.graph.node.extend(nodes)
    assert first.op_type


def dropout_on(graph: Any) -> None:
    """Dropout that still draws."""
    rename_output(graph, "logits_certain")
    on = onnx.numpy_helper.from_array(np.array(True), "training")
    share = onnx.numpy_helper.from_array(np.array(0.5, np.float32), "share")
    graph.graph.initializer.extend([share, on])
    graph.graph.node.append(onnx.helper.make_node("Dropout", ["logits_certain", "share", "training"], ["logits"]))


def rename_output(graph: Any, name: str) -> None:
    for node in graph.graph.node:
        node.output[:] = [name if output == "logits" else output for output in node.output]


def swapped(graph: Any) -> None:
    """Mean and std have each other's place in the graph."""
    mean, std = np.array(UNEVEN.mean), np.array(UNEVEN.std)
    for one in graph.graph.initializer:
        values = onnx.numpy_helper.to_array(one)
        for right, wrong in ((1 / (255 * std), 1 / (255 * mean)), (-mean / std, -std / mean)):
            if values.size == 3 and np.allclose(values.ravel(), right):
                one.CopyFrom(onnx.numpy_helper.from_array(wrong.reshape(values.shape).astype(np.float32), one.name))


def permuted(graph: Any) -> dict[str, Any]:
    """The names of two classes have changed places in the file."""
    one, two, *rest = CLASSES
    return {"classes": (two, one, *rest)}


FAULTS = {
    "frozen batch": Fault(frozen_batch, "batches", "cannot answer batch of 1"),
    "wrong position resize": Fault(wrong_resize, "sizes", r"for images of \d+×\d+ a logit differs"),
    "native size refused": Fault(native_refused, "runs", "cannot answer images of its native size"),
    "traced graph": Fault(traced, "sizes", r"cannot answer images of \d+×\d+"),
    "dropout left on": Fault(dropout_on, "repeats", "differently the second time"),
    "swapped mean and std": Fault(swapped, "native", "for random, constant and extreme images a logit differs"),
    "permuted classes": Fault(permuted, "record", "its classes are not the model's"),
}


def case_of(fault: Fault, model: Backbone, exported: Path, folder: Path) -> Case:
    spoilt = graph_of(exported)
    changes = fault.spoil(spoilt) or {}
    facts = Exported(record=replace(model.record, **changes), certificate=blank(), any_size=True)
    file = folder / "model.onnx"
    file.write_bytes(seal_onnx(spoilt.SerializeToString(), facts, None))
    subject = subject_of(model)
    return Case(open_onnx(file), subject.reference, model.record, None, onnx_file.write_beside(subject, file))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_refused_by_its_check_alone(name: str, model: Backbone, exported: Path, tmp_path: Path) -> None:
    fault = FAULTS[name]
    case = case_of(fault, model, exported, tmp_path)
    with pytest.raises(WeightsError, match=fault.message):
        certify(case)
    said = ""
    try:  # without that check it is refused in other words by a later one, or not at all
        certify(case, {key: check for key, check in CHECKS.items() if key != fault.check})
    except WeightsError as error:
        said = str(error)
    assert not re.search(fault.message, said)


def test_the_sound_graph_passes(model: Backbone, exported: Path, tmp_path: Path) -> None:
    assert certify(case_of(Fault(lambda graph: None, "", ""), model, exported, tmp_path))


def test_a_flipped_byte_is_refused(exported: Path, tmp_path: Path) -> None:
    """Anywhere in the file: the head, the weights, the facts, the seal."""
    content = exported.read_bytes()
    seal = len(content) - 84
    for place in (
        3,
        len(content) // 3,
        len(content) // 2,
        seal - 2000,
        seal + 1,
        seal + 9,
        seal + 30,
        len(content) - 1,
    ):
        damaged = bytearray(content)
        damaged[place] ^= 1
        (tmp_path / "model.onnx").write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"is damaged|was not written by|not an ONNX graph"):
            open_onnx(tmp_path / "model.onnx")


def test_only_the_sha256_sees_a_flipped_weight(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof by removal: without the check the damaged file opens, and answers otherwise."""
    content = bytearray(exported.read_bytes())
    weights = max((one.raw_data for one in graph_of(exported).graph.initializer), key=len)
    content[content.index(weights) + 3] ^= 0x80  # the sign of the first number
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(WeightsError, match=r"is damaged: its sha256"):
        open_onnx(tmp_path / "model.onnx")
    monkeypatch.setattr(onnx_engine, "check_onnx", lambda path, content: "unchecked")
    images = torch.randint(256, (2, 3, 32, 24), dtype=torch.uint8)
    damaged, sound = (open_onnx(path).logits(images) for path in (tmp_path / "model.onnx", exported))
    assert not torch.equal(damaged, sound)


def test_nothing_is_written_where_the_gate_refuses(
    model: Backbone, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = graph_of(exported)
    swapped(wrong)
    monkeypatch.setattr(onnx_file, "to_onnx", lambda *given, **more: wrong.SerializeToString())
    with pytest.raises(WeightsError, match="was not written"):
        export_onnx(subject_of(model, pictures()), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
