"""One rank of a training, as a program: `python -m tests.support.rank FOLDER RUN`."""

import argparse
import datetime
import json
import sys
from pathlib import Path

from tests.support.runs import no_report
from tests.support.trials import poisoned_at
from vitrail import config
from vitrail.errors import VitrailError
from vitrail.processes import world
from vitrail.training.loop import train
from vitrail.training.run import Run


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("run", type=json.loads)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--poison", type=int, nargs=2, metavar=("STEP", "RANK"))
    parser.add_argument("--patience", type=int, default=300, help="seconds that a rank waits for the others")
    told = parser.parse_args()
    world.TIMEOUT = datetime.timedelta(seconds=told.patience)
    if told.poison:
        poisoned_at(*told.poison)
    try:
        run = None if told.resume else config.from_dict(Run, told.run)
        with no_report():
            train(run, out=told.folder, resume=told.resume, quiet=True)
    except VitrailError as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
