"""Recipes say the papers' numbers (typed here a second time, from the tables), and every Run can be stored."""

import json
import re

import pytest

from vitrail.config import from_dict, to_dict
from vitrail.errors import ConfigError
from vitrail.images.preprocess import Preprocess
from vitrail.models import zoo
from vitrail.recipes import RECIPES, Given, Pretrained, about, choose, recipe
from vitrail.training.run import Run

WEIGHTS = Pretrained(path="b16", config=zoo.config("vit-b/16"), preprocess=Preprocess(interpolation="bicubic"))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_run_that_survives_json(name: str) -> None:
    run = recipe(name, Given(pretrained=WEIGHTS))
    assert run.recipe == name
    assert from_dict(Run, json.loads(json.dumps(to_dict(run)))) == run


@pytest.mark.parametrize("name", RECIPES)
def test_every_docstring_begins_with_a_sentence_and_has_a_command(name: str) -> None:
    first, blank, *rest = about(name).splitlines()
    assert first.endswith(".") and not blank
    assert any(re.match(r"command    vitrail train ", line) for line in rest)


FROM_SCRATCH = (
    "digits fashion_mnist_cpu fashion_mnist_gpu folder vit_imagenet21k vit_imagenet augreg deit torchvision_b16"
)


@pytest.mark.parametrize("name", FROM_SCRATCH.split())
def test_supervised_recipes_take_another_family(name: str) -> None:
    """A model is asked for by name; what the recipe says of pooling or positions holds for families that have them."""
    assert recipe(name, Given(model="r50x1")).model.family == "resnet"


@pytest.mark.parametrize(
    ("model", "epochs", "lr"),
    [
        ("vit-b/16", 7, 8e-4),
        ("vit-b/32", 7, 8e-4),
        ("vit-l/32", 7, 6e-4),
        ("vit-l/16", 14, 4e-4),
        ("vit-h/14", 14, 3e-4),
        ("r50x1", 7, 1e-3),
        ("r50x2", 7, 1e-3),
        ("r101x1", 7, 8e-4),
        ("r152x1", 7, 6e-4),
        ("r152x2", 7, 6e-4),
        ("r50+vit-b/32", 7, 8e-4),
        ("r50+vit-b/16", 7, 8e-4),
        ("r50+vit-l/32", 7, 2e-4),
        ("r50+vit-l/16", 14, 4e-4),
    ],
)
def test_pretraining_on_jft_is_table_3(model: str, epochs: int, lr: float) -> None:
    run = recipe("vit_jft", Given(model=model))
    assert run.length == f"{epochs} epochs" and run.optim.lr == lr and run.batch_size == 4096
    assert (run.optim.weight_decay, run.optim.schedule, run.optim.warmup) == (0.1, "linear", "10000 steps")
    assert run.optim.betas == (0.9, 0.999) and run.preprocess.size == (224, 224)


def test_pretraining_on_imagenet_is_table_3() -> None:
    run = recipe("vit_imagenet")
    assert (run.length, run.optim.lr, run.optim.schedule) == ("300 epochs", 3e-3, "cosine")
    assert (run.optim.weight_decay, run.model.dropout, run.optim.clip, run.batch_size) == (0.3, 0.1, 1.0, 4096)
    run = recipe("vit_imagenet21k:30", Given(model="vit-l/16"))
    assert (run.length, run.optim.lr, run.optim.weight_decay, run.model.dropout) == ("30 epochs", 1e-3, 0.03, 0.1)


@pytest.mark.parametrize(
    ("variant", "steps", "held_out"),
    [
        ("imagenet", 20_000, 0.01),
        ("cifar10", 10_000, 0.02),
        ("cifar100", 10_000, 0.02),
        ("pets", 500, 0.1),
        ("flowers", 500, 0.1),
        ("vtab", 2_500, 0.2),
    ],
)
def test_fine_tuning_is_table_4(variant: str, steps: int, held_out: float) -> None:
    run = recipe(f"finetune:{variant}", Given(pretrained=WEIGHTS))
    assert run.length == f"{steps} steps" and run.batch_size == 512 and run.holdout == held_out
    optim = run.optim
    assert (optim.name, optim.momentum, optim.schedule, optim.clip) == ("sgd", 0.9, "cosine", 1.0)
    assert optim.weight_decay == 0.0 and optim.lr == 0.01
    assert run.preprocess.size == (384, 384) and run.preprocess.interpolation == "bicubic"
    assert run.weights == "b16" and run.model == WEIGHTS.config


@pytest.mark.parametrize(("images", "steps"), [(3_680, 500), (50_000, 10_000), (1_281_167, 20_000)])
def test_fine_tuning_follows_the_number_of_images(images: int, steps: int) -> None:
    assert recipe("finetune", Given(images=images, pretrained=WEIGHTS)).length == f"{steps} steps"


def test_fine_tuning_at_a_size_the_patch_divides() -> None:
    h14 = Pretrained(path="h14", config=zoo.config("vit-h/14"), preprocess=Preprocess())
    assert recipe("finetune", Given(pretrained=h14)).preprocess.size == (378, 378)


@pytest.mark.parametrize(
    ("level", "randaugment", "mixup"),
    [
        ("none", None, 0.0),
        ("light1", (2, 0), 0.0),
        ("light2", (2, 10), 0.2),
        ("medium1", (2, 15), 0.2),
        ("medium2", (2, 15), 0.5),
        ("strong1", (2, 20), 0.5),
        ("strong2", (2, 20), 0.8),
    ],
)
def test_augreg_is_its_seven_levels(level: str, randaugment: tuple[int, int] | None, mixup: float) -> None:
    run = recipe(f"augreg:{level}")
    assert run.augment.randaugment == randaugment and run.mixing.mixup == mixup
    run = recipe(f"augreg:aug_{level}-wd_0.03-do_0.1-sd_0.1")
    assert (run.optim.weight_decay, run.model.dropout, run.model.extras.drop_path) == (0.03, 0.1, 0.1)


@pytest.mark.parametrize(("model", "level"), [("vit-ti/16", (2, 0)), ("vit-s/32", (2, 15)), ("vit-l/16", (2, 15))])
def test_augreg_without_a_level_takes_the_models(model: str, level: tuple[int, int]) -> None:
    assert recipe("augreg", Given(model=model)).augment.randaugment == level


def test_the_other_papers_numbers() -> None:
    s16 = recipe("big_vision_s16")
    assert (s16.batch_size, s16.length, s16.optim.lr, s16.optim.warmup) == (1024, "90 epochs", 1e-3, "10000 steps")
    assert s16.optim.lr * s16.optim.weight_decay == pytest.approx(1e-4)  # big_vision's decay, taken apart from the rate
    assert (s16.model.pool, s16.model.positions, s16.mixing.mixup) == ("mean", "sincos", 0.2)
    assert recipe("big_vision_s16:300").length == "300 epochs"
    deit = recipe("deit")
    assert (deit.optim.lr, deit.optim.lr_batch, deit.ema, deit.mixing.mixup, deit.mixing.cutmix) == (
        5e-4,
        512,
        0.99996,
        0.8,
        1.0,
    )
    assert (deit.augment.erase, deit.objective.label_smoothing, deit.model.extras.drop_path) == (0.25, 0.1, 0.1)
    deit3 = recipe("deit3")
    assert (deit3.length, deit3.batch_size, deit3.objective.loss) == ("800 epochs", 2048, "sigmoid")
    assert (deit3.preprocess.size, deit3.model.extras.drop_path, deit3.augment.three_augment) == ((192, 192), 0.2, True)
    b16 = recipe("torchvision_b16")
    assert (b16.optim.lr, b16.optim.weight_decay, b16.optim.warmup, b16.batch_size) == (3e-3, 0.3, "30 epochs", 4096)
    assert (b16.objective.label_smoothing, b16.mixing.mixup, b16.mixing.cutmix) == (0.11, 0.2, 1.0)


@pytest.mark.parametrize(
    ("given", "name", "why"),
    [
        (Given(images=1438, shape=(8, 8, 1)), "digits", "8×8"),
        (Given(images=60_000, shape=(28, 28, 1)), "fashion_mnist_cpu", "no GPU"),
        (Given(images=60_000, shape=(28, 28, 1), accelerator=True), "fashion_mnist_gpu", "there is a GPU"),
        (Given(images=900), "folder:tiny", "900 images"),
        (Given(images=378, shape=(48, 48, 1)), "folder:tiny", "378 images"),
        (Given(images=9_000), "folder:small", "9,000 images"),
        (Given(images=100_000), "folder:medium", "100,000 images"),
        (Given(images=900, pretrained=WEIGHTS), "finetune_small", "weights were given"),
        (Given(images=60_000, pretrained=WEIGHTS), "finetune", "weights were given"),
        (Given(images=900, shape=(28, 28, 1), pretrained=WEIGHTS), "finetune_small", "weights were given"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_recipe_is_chosen_by_size_and_weights(given: Given, name: str, why: str) -> None:
    found, reason = choose(given)
    assert found == name and why in reason
    assert recipe(found, given).recipe == name


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (9, 13, 1), (40, 60, 3)])
def test_small_images_of_any_shape_fit_the_model(shape: tuple[int, int, int]) -> None:
    run = recipe("fashion_mnist_cpu", Given(images=1000, shape=shape))
    height, width = run.preprocess.size
    assert height % 4 == width % 4 == 0 and abs(height - shape[0]) <= 2 and abs(width - shape[1]) <= 2
    assert run.preprocess.channels == shape[2]


def test_wrong_names_are_refused_with_the_right_ones() -> None:
    for name, message in {
        "deitt": "did you mean 'deit",
        "finetune:cifar1000": "did you mean 'cifar100",
        "augreg:heavy": "light1",
        "augreg:light1-xx_3": "no variant",
        "augreg:light1-wd_much": "no variant",
        "vit_imagenet21k:31": "30, 90",
    }.items():
        with pytest.raises(ConfigError, match=message):
            recipe(name, Given(pretrained=WEIGHTS))
    with pytest.raises(ConfigError, match="Table 3 has no row"):
        recipe("vit_jft", Given(model="vit-s/16"))
    for name in ("finetune", "finetune_small", "linear_probe"):
        with pytest.raises(ConfigError, match="starts from weights"):
            recipe(name)


@pytest.mark.parametrize("name", RECIPES)
def test_a_variant_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="variant"):
        recipe(f"{name}:nonsense", Given(pretrained=WEIGHTS))


def test_a_change_that_a_family_does_not_know_is_refused_by_name() -> None:
    """big_vision's recipe needs its positions and its head; it was another training without a word."""
    with pytest.raises(ConfigError, match="a resnet has no 'p"):
        recipe("big_vision_s16", Given(model="r50x1"))
    assert recipe("folder", Given(model="r50x1", images=100)).model.family == "resnet"


def test_variants_are_data() -> None:
    assert RECIPES["vit_imagenet21k"].variants == ("30", "90") and not RECIPES["deit"].variants
    for name, entry in RECIPES.items():
        for variant in entry.variants:
            run = recipe(f"{name}:{variant}", Given(pretrained=WEIGHTS, images=5000))
            assert run.recipe == f"{name}:{variant}"


@pytest.mark.parametrize("name", ["mae_small", "pretrain_small", "digits", "fashion_mnist_gpu"])
def test_the_size_of_small_models_follows_from_a_named_patch(name: str) -> None:
    run = recipe(name, Given(images=500, shape=(28, 28, 1), patch=(7, 7)))
    assert run.model.patch == (7, 7) and run.preprocess.size == (28, 28)
