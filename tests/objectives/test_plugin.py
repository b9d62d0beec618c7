"""A package that is installed beside Vitrail brings an objective: a run with it trains, and resumes in a new process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
import sys
from pathlib import Path
from vitrail.training.loop import train
result = train(None, out=Path("run"), resume=True, quiet=True)
assert type(result.setup.run.objective).__name__ == "Focal" and result.setup.run.objective.gamma == 1.5
print(result.scores)
"""


def run(program: str, folder: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    here = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*paths, here / "src", here)))}
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def test_a_run_with_a_plugins_objective_resumes(tmp_path: Path) -> None:
    site = tmp_path / "site"
    info = site / "focal-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "focal.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: focal\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vitrail.plugins]\nfocal = focal\n")
    first = run(TRAIN, tmp_path, site)
    assert first.returncode == 0, first.stderr
    again = run(RESUME, tmp_path, site)
    assert again.returncode == 0, again.stderr
    assert "on 359 images" in again.stdout
    without = run(RESUME, tmp_path)
    assert without.returncode != 0 and "no objective is called 'focal'" in without.stderr
