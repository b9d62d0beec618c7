"""Counts what is unpickled while the tests run, here and in every process they start, by an audit hook.

Python raises `pickle.find_class` whenever an unpickler looks up a name, in C or in Python. Vitrail opens no pickle, on any
path, so a look-up with Vitrail on the stack fails the test. Messages between our own processes are counted apart: whoever
can write into those pipes is us already.
"""

import json
import os
import sys
from pathlib import Path
from types import FrameType

OURS = "vitrail"
BETWEEN_OUR_PROCESSES = ("multiprocessing", "torch.distributed.distributed_c10d", "ray")
"""Modules that unpickle what another process of this program sent."""
COMPILER = ("torch._inductor", "torch._dynamo", "torch._functorch", "torch.fx", "triton", "torch.compiler")
"""torch.compile keeps what it compiled in the user's cache, pickled; its doing and its files, not ours."""
SHOWN = {"processes": "between our own processes", "compiler": "by torch's compiler", "others": "by test tools"}
LOG = "VITRAIL_UNPICKLED"
"""Names the file to which child processes report."""

WATCHED = "VITRAIL_WATCHED"
"""The process whose look-ups are in `found`: a worker of pytest-xdist loads sitecustomize.py as well, and counts once."""

found: list[tuple[str, str]] = []
"""(whose, what was looked up by whom) of every look-up in this process."""


def whose(frame: FrameType | None) -> str:
    """ "vitrail", "processes", "compiler", or "others" without a module of Vitrail on the stack (the test tools)."""
    opener, ours = "", False
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if not opener and name not in ("pickle", "_pickle", "copyreg", __name__):
            opener = name
        if any(name == one or name.startswith(f"{one}.") for one in COMPILER):
            return "compiler"
        ours = ours or name == OURS or name.startswith(f"{OURS}.")
        frame = frame.f_back
    if any(opener == one or opener.startswith(f"{one}.") for one in BETWEEN_OUR_PROCESSES):
        return "processes"
    return "vitrail" if ours else "others"


def _hook(event: str, arguments: tuple) -> None:
    if event != "pickle.find_class":
        return
    frame = sys._getframe(1)
    kind = whose(frame)
    what = (
        f"{arguments[0]}.{arguments[1]} by {frame.f_globals.get('__name__')}:{frame.f_lineno} in process {os.getpid()}"
    )
    if os.getpid() == _PID:
        found.append((kind, what))
    elif (path := os.environ.get(LOG)) and os.environ.get(WATCHED) != str(os.getpid()):
        with open(path, "a", encoding="utf-8") as file:  # one short write: whole, whoever else writes
            file.write(json.dumps([kind, what]) + "\n")


def watch(log: Path | None = None) -> None:
    """Begins to count in this process; a hook cannot be taken off again.

    With `log`, Python processes started from here on count too and report there: they find our sitecustomize.py.
    """
    global _PID
    sys.addaudithook(_hook)
    if log is None:
        return
    _PID = os.getpid()
    os.environ[LOG], os.environ[WATCHED] = str(log), str(_PID)
    here = str(Path(__file__).parent / "children")
    os.environ["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])


def reported(log: Path, since: int = 0) -> list[tuple[str, str]]:
    """The names that child processes looked up, after that many bytes of their log."""
    if not log.exists() or log.stat().st_size == since:
        return []
    with open(log, encoding="utf-8") as lines:
        lines.seek(since)
        return [tuple(json.loads(line)) for line in lines]


_PID = 0  # of the process whose look-ups are in `found`; a child of it reports
