"""Distilled DeiT against the numbers of facebookresearch/deit, timm and transformers; distillation by its formulas."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from tests.support.golden import Golden
from vitrail.batches.loader import Batch
from vitrail.errors import ConfigError
from vitrail.images.preprocess import Preprocess
from vitrail.models import zoo
from vitrail.models.deit import DeiTConfig
from vitrail.models.extras import Extras
from vitrail.models.vit import ViTConfig
from vitrail.objectives.distill import Distill
from vitrail.objectives.objective import Task
from vitrail.weights.bundle import Record, load, save_bundle
from vitrail.weights.fit import fit
from vitrail.weights.recognise import read_foreign

pytestmark = pytest.mark.oracle

STUDENT = DeiTConfig(width=32, depth=1, heads=2, mlp_width=32, image=(8, 8), patch=(4, 4), classes=3)
TEACHER = ViTConfig(width=16, depth=1, heads=2, mlp_width=16, image=(16, 16), patch=(8, 8), classes=3)
PLAIN = Preprocess(size=(8, 8))


def config_of(model: dict, eps: float = 1e-6) -> DeiTConfig:
    return DeiTConfig(
        width=model["embed_dim"],
        depth=model["depth"],
        heads=model["num_heads"],
        mlp_width=int(model["embed_dim"] * model["mlp_ratio"]),
        patch=(model["patch_size"],) * 2,
        image=(model["img_size"],) * 2,
        classes=model["num_classes"],
        extras=Extras(registers=1, norm_eps=eps),
    )


def check(tensors: dict, config: DeiTConfig, folder: Path) -> None:
    meta, io = json.loads((folder / "meta.json").read_text()), dict(np.load(folder / "io.npz"))
    model = zoo.skeleton(config)
    fit(model, read_foreign(tensors, where="file", config=config)[1].tensors, where="file")
    model = model.eval().double()
    images = torch.from_numpy(io["input"]).double()
    label, teacher = model.head.both(model.pool(model.features(images)))
    found = {"logits": model(images), "cls_logits": label, "distillation_logits": teacher}
    compared = 0
    for name, ours in found.items():
        if name + "_f64" in io:
            limit = meta["io"]["outputs"][name + "_f64"]["atol"]
            assert np.abs(ours.detach().numpy() - io[name + "_f64"]).max() <= limit, name
            compared += 1
    assert compared >= 1


@pytest.mark.parametrize("origin", ["deit_official", "timm_deit"])
def test_outputs_of_both_heads_equal_the_originals(golden: Golden, origin: str) -> None:
    folder = golden / origin / "distilled"
    stored = torch.load(folder / "checkpoint.pth", weights_only=True)
    model = json.loads((folder / "meta.json").read_text())["model"]
    check(stored.get("model", stored), config_of(model), folder)


def test_outputs_equal_transformers(golden: Golden) -> None:
    folder = golden / "hf_deit/with_teacher"
    theirs = json.loads((folder / "config.json").read_text())
    model = {
        "embed_dim": theirs["hidden_size"],
        "depth": theirs["num_hidden_layers"],
        "num_heads": theirs["num_attention_heads"],
        "mlp_ratio": theirs["intermediate_size"] / theirs["hidden_size"],
        "patch_size": theirs["patch_size"],
        "img_size": theirs["image_size"],
        "num_classes": 10,
    }
    check(load_file(folder / "model.safetensors"), config_of(model, theirs["layer_norm_eps"]), folder)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A random teacher of other size, normalisation and order of classes."""
    model = zoo.build(TEACHER, seed=3)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    preprocess = Preprocess(size=(16, 16), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    save_bundle(tmp_path / "teacher", model, Record(config=TEACHER, preprocess=preprocess, classes=("c", "a", "b")))
    return tmp_path / "teacher"


def learner_of(objective: Distill, student=STUDENT, classes: tuple[str, ...] = ("a", "b", "c")):
    backbone = zoo.build(student)
    for parameter in backbone.head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return objective.build(backbone, torch.Generator().manual_seed(0), Task(preprocess=PLAIN, classes=classes))


def test_the_teacher_sees_its_own_preprocessing_and_answers_in_the_students_order(teacher: Path) -> None:
    learner = learner_of(Distill(teacher=str(teacher)))
    pixels = torch.rand(2, 3, 8, 8)
    *_, found = learner((pixels - 0.5) / 0.5)
    model = load(teacher)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.record.preprocess.mean, model.record.preprocess.std))
    own = F.interpolate((pixels - mean) / std, (16, 16), mode="bicubic", antialias=True)
    assert torch.allclose(found, model(own)[:, [1, 2, 0]], atol=1e-5)


@pytest.mark.parametrize("student", [STUDENT, replace(TEACHER, image=(8, 8), patch=(4, 4))])
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_the_loss_is_the_papers(teacher: Path, kind: str, student) -> None:
    objective = Distill(teacher=str(teacher), kind=kind, weight=0.3, temperature=3.0)
    learner = learner_of(objective, student)
    images, labels = torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    label, follower, answers = learner(images)
    if kind == "hard":
        term = F.cross_entropy(follower, answers.argmax(1))
    else:
        p, q = (answers / 3).softmax(1), (follower / 3).softmax(1)
        term = 9 * (p * (p / q).log()).sum(1).mean()
    expected = 0.7 * F.cross_entropy(label, labels) + 0.3 * term
    loss = objective(learner, Batch(images, labels, ("",) * 6))
    assert float(loss.value.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert (label is follower) == (student.family == "vit")
    loss.value.backward()
    assert all(p.grad is not None for p in learner.parameters())
    assert not any("teacher.model" in name for name in learner.state_dict())


def test_a_teacher_that_does_not_fit_is_refused(teacher: Path) -> None:
    with pytest.raises(ConfigError, match=r"lacks 1 of the 3 classes, such as 'dog'"):
        learner_of(Distill(teacher=str(teacher)), classes=("a", "b", "dog"))
    with pytest.raises(ConfigError, match="there is no teacher at"):
        learner_of(Distill(teacher="nowhere"))
    with pytest.raises(ConfigError, match="without a teacher"):
        learner_of(Distill())
    grey = Task(preprocess=Preprocess(size=(8, 8), mean=(0.5,), std=(0.5,)), classes=("a", "b", "c"))
    with pytest.raises(ConfigError, match="reads 3 channels, the student 1"):
        Distill(teacher=str(teacher)).build(zoo.build(STUDENT, channels=1), torch.Generator(), grey)
    with pytest.raises(ConfigError, match="one register or more"):
        DeiTConfig(extras=Extras(registers=0))
