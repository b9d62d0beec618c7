"""A package that is installed beside Vitrail brings an objective: a run with it trains, and resumes in a new process."""

import os
import sys
from pathlib import Path

import pytest

from tests.support.runs import no_report
from tests.support.trials import ended, in_child
from vitrail.errors import ConfigError
from vitrail.training import loop

pytestmark = pytest.mark.flow

PLUGIN = '''
from dataclasses import dataclass
from typing import ClassVar
import torch.nn.functional as F
from vitrail.objectives.objective import OBJECTIVES, Loss, Supervised

@OBJECTIVES.register("focal")
@dataclass(frozen=True, kw_only=True)
class Focal(Supervised):
    """Focal loss (arXiv 1708.02002): easy images count less."""
    family: ClassVar[str] = "focal"
    gamma: float = 2.0

    def __call__(self, model, batch, generator=None):
        logp = F.log_softmax(model(batch.images).float(), 1).gather(1, batch.targets[:, None])[:, 0]
        loss = -((1 - logp.exp()) ** self.gamma * logp).mean()
        return Loss(loss, {"loss": loss.detach()})
'''
TRAIN = """
import dataclasses
from pathlib import Path
from focal import Focal
from tests.support.runs import TINY
from vitrail.batches.mixing import Mixing
from vitrail.training.loop import train
train(dataclasses.replace(TINY, mixing=Mixing(), objective=Focal(gamma=1.5)), out=Path("run"), quiet=True)
"""
RESUME = """
from pathlib import Path
from vitrail.training.loop import train
result = train(None, out=Path("run"), resume=True, quiet=True)
assert type(result.setup.run.objective).__name__ == "Focal" and result.setup.run.objective.gamma == 1.5
assert result.scores.images == 359
"""


def run_beside(site: Path, folder: Path, program: str) -> int:
    """The exit code of the program in a new process that has the packages in `site`."""

    def work() -> None:
        sys.path.insert(0, str(site))
        os.chdir(folder)
        with no_report():
            exec(program, {})

    return ended(in_child(work))


def test_a_run_with_a_plugins_objective_resumes(tmp_path: Path) -> None:
    site = tmp_path / "site"
    info = site / "focal-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "focal.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: focal\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vitrail.plugins]\nfocal = focal\n")
    assert run_beside(site, tmp_path, TRAIN) == 0
    assert run_beside(site, tmp_path, RESUME) == 0
    with pytest.raises(ConfigError, match="no objective is called 'focal'"):
        loop.train(None, out=tmp_path / "run", resume=True, quiet=True)
