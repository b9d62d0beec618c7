"""Nothing is left on the CPU: every model and objective on a GPU that torch only pretends to have.

Fake tensors know shape, type and device and hold no numbers; torch refuses an operation whose tensors lie on two devices,
as a real GPU would. So a tensor made in the wrong place is found on a machine without one.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.support.objectives import runs
from tests.support.trials import ended, in_child
from tests.support.zoo import FAMILIES, VITS
from vitrail.batches.batch import Batch
from vitrail.models import zoo
from vitrail.objectives.objective import Task

ROWS = ("vit-b/16", "r50x1", "r50+vit-b/16", "r+vit-ti/16", "maxvit-t")
"""One row of the zoo of each kind, and every option."""
CONFIGS = {name: config for name, config in {**VITS, **FAMILIES}.items() if name in ROWS or name not in zoo.ZOO}
GPU = torch.device("cuda", 0)


@contextlib.contextmanager
def pretended(module: nn.Module) -> Iterator[nn.Module]:
    """The module on the GPU; whoever makes a tensor meanwhile gets a fake one."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        for part in module.modules():
            for held in (part._parameters, part._buffers):
                there = {
                    name: torch.empty(t.shape, dtype=t.dtype, device=GPU) for name, t in held.items() if t is not None
                }
                held.update({name: nn.Parameter(t) if held is part._parameters else t for name, t in there.items()})
        yield module


def test_torch_refuses_two_devices() -> None:
    with pretended(nn.Linear(2, 2)) as linear, pytest.raises(RuntimeError, match="device"):
        linear(torch.ones(1, 2))


def test_a_child_that_is_forked_afterwards_learns() -> None:
    """`tests/conftest.py` has the first backward pass, before any GPU is pretended."""
    with pretended(nn.Linear(2, 2)):
        pass
    torch.ones(1, requires_grad=True).backward()
    assert ended(in_child(lambda: torch.ones(1, requires_grad=True).backward())) == 0


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_on_a_gpu(name: str) -> None:
    with pretended(zoo.build(CONFIGS[name])) as model:
        height, width = model.config.image
        for train, size in ((True, (height, width)), (False, (2 * height, width))):
            images = torch.empty(2, model.config.channels, *size, device=GPU)
            assert model.train(train)(images).device == GPU


@pytest.mark.parametrize("name", ["mae", "masked_patches", "simmim", "contrast", "classify", "probe", "distill"])
def test_an_objective_on_a_gpu(name: str, tmp_path: Path) -> None:
    run = runs(tmp_path)[name]
    backbone = zoo.build(run.model, image=8, channels=1, classes=10)
    task = Task(preprocess=run.preprocess, classes=tuple("0123456789"))
    learner = run.objective.build(backbone, torch.Generator().manual_seed(0), task)
    with pretended(learner):
        images = torch.empty(4, 1, 8, 8, dtype=torch.uint8, device=GPU)
        batch = Batch(run.preprocess.normalise(images), torch.empty(4, dtype=torch.long, device=GPU), ("",) * 4)
        loss = run.objective(learner, batch, torch.Generator())
        run.objective.after_step(learner, 0.5)
        assert loss.value.device == GPU and all(value.device == GPU for value in loss.report.values())
