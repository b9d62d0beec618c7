"""The hook that watches the whole suite does see what it looks for."""

import json
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest

from tests.support import unpickling

pytestmark = pytest.mark.fault

OPENS = "import pickle\ndef open_it(content):\n    return pickle.loads(content)\n"
CONTENT = pickle.dumps(OrderedDict(a=1))


def opened_by(module: str) -> str:
    """The owner of a look-up by a module of this name."""
    names: dict = {"__name__": module}
    exec(OPENS, names)
    before = len(unpickling.found)
    names["open_it"](CONTENT)
    (seen,) = unpickling.found[before:]
    del unpickling.found[before:]
    return seen[0]


@pytest.mark.parametrize(
    ("module", "whose"),
    [("vitrail", "vitrail"), ("vitrail.training.state", "vitrail"), ("vitrailish", "others"), ("joblib", "others"),
     ("multiprocessing.connection", "processes"), ("torch._inductor.codecache", "compiler")],
)  # fmt: skip
def test_a_look_up_is_known_by_who_asks(module: str, whose: str) -> None:
    assert opened_by(module) == whose


@pytest.mark.parametrize("library", ["torch.serialization", "numpy.lib.format"])
def test_a_library_that_vitrail_asks_to_unpickle_is_vitrail(library: str) -> None:
    inner: dict = {"__name__": library}
    exec(OPENS, inner)
    outer: dict = {"__name__": "vitrail.weights.files.readers", "inner": inner["open_it"]}
    exec("def outer(content):\n    return inner(content)\n", outer)
    before = len(unpickling.found)
    outer["outer"](CONTENT)
    assert [whose for whose, _ in unpickling.found[before:]] == ["vitrail"]
    del unpickling.found[before:]


def test_child_processes_report(tmp_path: Path) -> None:
    code = f"import sys; names = {{'__name__': 'vitrail.x'}}; exec({OPENS!r}, names); names['open_it']({CONTENT!r})"
    log = tmp_path / "log"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, unpickling.LOG: str(log)})
    ((whose, what),) = [json.loads(line) for line in log.read_text().splitlines()]
    assert whose == "vitrail" and "collections.OrderedDict by vitrail.x" in what
