"""Files of torch.save: tensors come in; nothing else ever does, whatever the file tries."""

import argparse
import collections
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from vitrail.errors import WeightsError
from vitrail.weights.files.readers import read_any, read_onnx, read_pth

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [True, False])
def test_plain_and_wrapped_files_old_and_new(tmp_path: Path, zipped: bool, wrap: bool) -> None:
    held = {"model": TENSORS, "epoch": 3} if wrap else TENSORS
    torch.save(held, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    content = read_any(tmp_path / "x.pth")
    assert content.wrapped == wrap and content.left == (("epoch",) if wrap else ())
    assert all(torch.equal(content.tensors[name], TENSORS[name]) for name in TENSORS)


def test_ordered_dicts_and_parameters_are_plain(tmp_path: Path) -> None:
    held = collections.OrderedDict(w=torch.nn.Parameter(torch.ones(2)))
    torch.save(held, tmp_path / "x.pt")
    assert not read_pth(tmp_path / "x.pt").tensors["w"].requires_grad


def test_tensors_under_another_word_are_named(tmp_path: Path) -> None:
    torch.save({"teacher": TENSORS, "state_dict": TENSORS, "epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"holds tensors under teacher, state_dict; .*\['teacher'\]"):
        read_pth(tmp_path / "x.pth")


# --- what was made to harm


class Calls:
    """Pickled as a call of `what`."""

    def __init__(self, what, *arguments) -> None:
        self.call = (what, arguments)

    def __reduce__(self):
        return self.call


def payloads(canary: Path) -> dict[str, object]:
    """Objects that would do something when unpickled, by name."""
    touch = f"open({str(canary)!r}, 'w').close()"
    calls = {
        "os.system": Calls(os.system, f"touch {canary}"),
        "exec": Calls(exec, touch),
        "eval": Calls(eval, touch),
        "compile": Calls(compile, touch, "x", "exec"),
        "import": Calls(__import__, "this"),
        "open": Calls(open, str(canary), "w"),
        "mkdir": Calls(os.mkdir, str(canary)),
        "popen": Calls(subprocess.Popen, ["touch", str(canary)]),
        "run": Calls(subprocess.run, ["touch", str(canary)]),
        "getattr": Calls(getattr, "system", "upper"),
        "torch.load": Calls(torch.load, str(canary)),
        "pickle.loads": Calls(pickle.loads, pickle.dumps(Calls(os.system, f"touch {canary}"))),
        "np.load": Calls(np.load, str(canary)),
        "np.save": Calls(np.save, str(canary), np.zeros(1)),
        "Path.touch": Calls(Path.touch, canary),
        "namespace": argparse.Namespace(lr=1e-3),
        "module": torch.nn.Linear(2, 2),
        "path": canary,
        "exception": ValueError("x"),
        "array of objects": np.array([{"a": 1}], dtype=object),
    }
    places = {
        "alone": lambda bad: bad,
        "beside tensors": lambda bad: {**TENSORS, "evil": bad},
    }
    return {f"{name}, {place}": put(bad) for name, bad in calls.items() for place, put in places.items()}


def by_hand(canary: Path) -> dict[str, bytes]:
    """Files that torch.save would not write."""
    bad = pickle.dumps(Calls(os.system, f"touch {canary}"))
    good = io.BytesIO()
    torch.save(TENSORS, good)

    def zipped(entries: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", how) as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
        return buffer.getvalue()

    inner = {"archive/data.pkl": bad, "archive/version": b"3\n"}
    return {
        "bare pickle": bad,
        "protocol 0": pickle.dumps(Calls(os.system, f"touch {canary}"), protocol=0),
        "pickle in a zip": zipped(inner),
        "compressed": zipped({"archive/data.pkl": b"0" * 10_000_000}, zipfile.ZIP_DEFLATED),
        "zip in a zip": zipped({"archive/data.pkl": zipped(inner)}),
        "paths out": zipped({"../../evil": b"x", **inner}),
        "absolute": zipped({"/tmp/evil": b"x", **inner}),
        "twice": good.getvalue() + zipped(inner),
        "empty": b"",
        "only the magic": b"PK\x03\x04",
        "truncated": good.getvalue()[: len(good.getvalue()) // 2],
        "metadata": zipped({".metadata": bad}),
        "legacy magic": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + bad,
        "stack of nothing": b"\x80\x02" + b"(" * 100_000 + b".",
    }


def test_nothing_is_ever_called(tmp_path: Path) -> None:
    """In a process of its own, whose audit hook counts every name that pickle looks up: none, and no canary."""
    canary = tmp_path / "canary"
    folder = tmp_path / "files"
    folder.mkdir()
    files = {name: dump(held) for name, held in payloads(canary).items()} | by_hand(canary)
    for index, content in enumerate(files.values()):
        (folder / f"{index}.pth").write_bytes(content)
        (folder / f"{index}.bin").write_bytes(content)
    np.savez(folder / "objects.npz", weight=np.array([Calls(os.system, f"touch {canary}")], dtype=object))
    with zipfile.ZipFile(folder / "renamed.npz", "w") as archive:
        archive.writestr("weight.npy", pickle.dumps(Calls(os.system, f"touch {canary}")))
    (folder / "pickle.safetensors").write_bytes(pickle.dumps(Calls(os.system, f"touch {canary}")))
    assert len(list(folder.iterdir())) >= 40 * 2
    done = subprocess.run([sys.executable, "-c", AUDITED, str(folder)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["lookups"] == [] and found["loaded"] == []
    assert found["typed"] == len(list(folder.iterdir()))
    assert not canary.exists()


AUDITED = """
import json, sys
from pathlib import Path
from vitrail.errors import WeightsError
from vitrail.weights import bundle
lookups, loaded, typed = [], [], 0
WATCHED = ("pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "os.mkdir")
sys.addaudithook(lambda event, arguments: lookups.append(event) if event in WATCHED else None)
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        bundle.load(path)
        loaded.append(path.name)
    except WeightsError:
        typed += 1
print(json.dumps({"lookups": lookups, "loaded": loaded, "typed": typed}))
"""


def dump(held: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(held, buffer)
    return buffer.getvalue()


def test_a_view_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1).expand(1 << 40)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="claim more bytes than it has"):
        read_pth(tmp_path / "x.pth")


@pytest.mark.parametrize("held", [{}, [1, 2], {"a": "words"}, {1: torch.ones(1)}, {"model": {"a": 3}}, torch.ones(2)])
def test_what_is_not_tensors_by_name_is_refused(tmp_path: Path, held: object) -> None:
    torch.save(held, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"not tensors by name|not a plain tensor"):
        read_pth(tmp_path / "x.pth")


def test_sparse_and_missing_files(tmp_path: Path) -> None:
    torch.save({"w": torch.eye(3).to_sparse()}, tmp_path / "x.pth")
    with pytest.raises(WeightsError):
        read_pth(tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_pth(tmp_path / "nowhere.pth")


def test_the_refusal_says_what_to_do(tmp_path: Path) -> None:
    torch.save({"model": TENSORS, "args": argparse.Namespace(lr=1)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"holds more than tensors.*Namespace.*ask its author for a .safetensors"):
        read_pth(tmp_path / "x.pth")


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".joblib", ".h5", ".keras", ".pb", ".mlmodel", ".pt2"])
def test_formats_that_run_code_are_refused_by_name(tmp_path: Path, suffix: str) -> None:
    torch.save(TENSORS, tmp_path / f"x{suffix}")
    with pytest.raises(WeightsError, match=r"it is not opened; ask its author for a \.safetensors"):
        read_any(tmp_path / f"x{suffix}")


def test_a_bomb_of_memoised_lists_ends_in_an_error(tmp_path: Path) -> None:
    """Lists of lists that would print as 2**40 items: refused for what they are, without walking them."""
    held: list = []
    for _ in range(40):
        held = [held, held]
    torch.save(held, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="it holds a list"):
        read_pth(tmp_path / "x.pth")


def test_onnx_tensors_in_other_files_are_not_followed(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    tensor = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], [1.0])
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "ok.onnx"))
    assert read_onnx(tmp_path / "ok.onnx").tensors["w"].tolist() == [1.0]
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [tensor]))
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match="another file"):
        read_onnx(tmp_path / "x.onnx")
    (tmp_path / "y.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(WeightsError, match="not a sound weights file"):
        read_onnx(tmp_path / "y.onnx")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_program_of_torchscript_is_named_with_the_way_to_its_tensors(tmp_path: Path) -> None:
    """OpenAI's CLIP files are such programs."""
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "ViT-B-32.pt"))
    with pytest.raises(WeightsError, match=r"program of TorchScript.*state_dict"):
        read_any(tmp_path / "ViT-B-32.pt")
