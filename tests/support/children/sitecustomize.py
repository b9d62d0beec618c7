"""Python runs this at the start of every process that the tests start: it counts what they unpickle, as they do."""

import importlib.util
import os
from pathlib import Path

if os.environ.get("VITRAIL_UNPICKLED"):
    where = Path(__file__).parents[1] / "unpickling.py"
    spec = importlib.util.spec_from_file_location("tests_unpickling", where)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.watch()
