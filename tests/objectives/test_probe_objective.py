"""MAE's probe: frozen features, batch norm without weights, and a head that has swallowed it."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support.objectives import ENCODER, TINY
from vitrail.batches.batch import Batch
from vitrail.errors import ConfigError
from vitrail.images.preprocess import Preprocess
from vitrail.models import zoo
from vitrail.objectives.probe import Probe
from vitrail.recipes import Given, Pretrained, recipe
from vitrail.training import loop
from vitrail.training.run import Optim
from vitrail.weights.bundle import load, read_record
from vitrail.weights.encoder import encoder_config

pytestmark = pytest.mark.oracle

MODEL = dataclasses.replace(ENCODER, image=(8, 8), channels=1, classes=10)


def test_the_kept_model_answers_as_the_probe_does_and_nothing_else_moved() -> None:
    backbone = zoo.build(MODEL, seed=0)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    learner = Probe().build(backbone, torch.Generator().manual_seed(0))
    random = torch.Generator().manual_seed(1)
    sgd = torch.optim.SGD([p for p in learner.parameters() if p.requires_grad], lr=0.5)
    for _ in range(5):
        batch = Batch(
            torch.randn(16, 1, 8, 8, generator=random), torch.randint(0, 10, (16,), generator=random), ("",) * 16
        )
        learner.train()
        sgd.zero_grad()
        Probe()(learner, batch, None).value.backward()
        sgd.step()
    learner.eval()
    images = torch.randn(7, 1, 8, 8, generator=random)
    kept = Probe().model_of(learner)
    torch.testing.assert_close(kept(images), learner(images), atol=1e-4, rtol=1e-4)
    moved = [name for name, tensor in kept.state_dict().items() if not torch.equal(tensor, before[name])]
    assert moved == ["head.weight", "head.bias"]


def test_features_come_to_mean_zero_and_variance_one_whatever_their_scale() -> None:
    learner = Probe().build(zoo.build(MODEL, seed=0), torch.Generator().manual_seed(0)).train()
    seen: list[torch.Tensor] = []
    learner.head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    learner(torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(2)))
    torch.testing.assert_close(seen[0].mean(0), torch.zeros(32), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen[0].var(0, correction=0), torch.ones(32), atol=1e-2, rtol=0)
    assert not learner.backbone.training


def test_the_recipe_runs_from_pre_trained_weights_and_ends_as_a_classifier(tmp_path: Path) -> None:
    pre = loop.train(TINY, out=tmp_path / "pre", quiet=True)
    start = Pretrained(
        path=str(pre.folder), config=encoder_config(read_record(pre.folder).config), preprocess=TINY.preprocess
    )
    run = recipe("mae_probe", Given(images=1438, classes=10, shape=(8, 8, 1), pretrained=start))
    assert run.optim.name == "lars" and run.optim.lr == 6.4
    run = dataclasses.replace(
        run, data="digits", length="60 steps", evaluate_every="30 steps", save_every="30 steps", hardware=TINY.hardware,
        optim=dataclasses.replace(run.optim, warmup="5 steps"),
    )  # fmt: skip
    result = loop.train(run, out=tmp_path / "probe", quiet=True)
    assert result.scores.top1 > 0.3  # a tenth is chance; the encoder has hardly learnt
    model, encoder = load(result.folder), load(pre.folder).encoder
    assert isinstance(model.head, nn.Linear)
    assert torch.equal(model.patch_embed.weight, encoder.patch_embed.weight)
    assert torch.equal(model.norm.weight, encoder.norm.weight)


def test_the_papers_numbers() -> None:
    weights = Pretrained(path="w", config=zoo.config("vit-l/16"), preprocess=Preprocess())
    run = recipe("mae_probe", Given(pretrained=weights))
    assert (run.optim.lr, run.optim.lr_batch, run.batch_size, run.optim.weight_decay) == (0.1, 256, 16_384, 0.0)
    assert (run.length, run.optim.warmup, run.model.pool) == ("50 epochs", "10 epochs", "cls")
    partial = recipe("mae_partial:6", Given(pretrained=weights))
    assert (partial.optim.freeze, partial.optim.last_blocks) == ("backbone", 6)
    assert (
        dataclasses.replace(partial, optim=Optim()).augment == recipe("mae_finetune", Given(pretrained=weights)).augment
    )
    deit3 = recipe("deit3", Given(model="vit-s/16"))
    assert (deit3.optim.name, deit3.optim.lr, deit3.augment.repeats) == ("lamb", 4e-3, 3)
    assert recipe("deit").augment.repeats == 3


def test_a_model_whose_head_is_no_linear_map_is_refused() -> None:
    backbone = nn.Module()
    backbone.config = MODEL
    with pytest.raises(ConfigError, match="a probe of a vit"):
        Probe().build(backbone, None)
