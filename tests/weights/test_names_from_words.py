"""Classifiers from words: text towers against transformers and open_clip, token numbers against `tokenizers`."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import vitrail
from tests.support.objectives import teacher
from tests.weights.test_rotary_towers import open_clip_model
from tests.weights.test_towers import MLP, SIZES, build
from vitrail.api.name import find_least
from vitrail.cli import main
from vitrail.errors import ConfigError, WeightsError
from vitrail.recipes.request import read_pretrained
from vitrail.weights import bundle
from vitrail.weights.texts import encode, read_pair

pytestmark = [pytest.mark.filterwarnings("ignore")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
tokenizers = pytest.importorskip("tokenizers", reason="needs the extra text")

WORDS = ("<pad>", "<s>", "a", "photo", "of", "this", "is", "cat", "dog", "red", "green", "blue", "sea", "lion", "</s>")
NAMES = ("cat", "dog", "sea lion")
TEXT: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 15,
    "max_position_embeddings": 9, "bos_token_id": 1, "eos_token_id": 14, "pad_token_id": 0,
}  # fmt: skip
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def write_tokenizer(folder: Path) -> Any:
    """Words to numbers, with a start and an end, as CLIP's tokenizer.json is made."""
    model = tokenizers.models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<pad>")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 14)]
    )
    made.save(str(folder / "tokenizer.json"))
    return made


def pair_of(kind: str, folder: Path) -> Any:
    """A tiny pair of towers of transformers, saved with its tokenizer."""
    made = {"vision_config": {**SIZES, **MLP, "projection_dim": 16}, "text_config": {**TEXT, "projection_dim": 16}}
    if kind == "Siglip":  # both towers share one width there
        made = {"vision_config": {**SIZES, **MLP}, "text_config": {**TEXT, "hidden_size": 24, "num_attention_heads": 3}}
    theirs = build(f"{kind}Model", kind, {**made, "projection_dim": 16})
    theirs.logit_scale.data.fill_(1.5)
    theirs.save_pretrained(folder)
    write_tokenizer(folder)
    return theirs


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_logits_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    theirs = pair_of(kind, tmp_path)
    made = vitrail.name(tmp_path, NAMES, prompts=("a photo of a {}",))
    ids = encode(
        tmp_path / "tokenizer.json", [f"a photo of a {name}" for name in NAMES], read_pair(tmp_path).text.config
    )
    with torch.no_grad():
        found = theirs(input_ids=ids, pixel_values=IMAGES).logits_per_image
        ours = made.model(IMAGES)
    assert float((ours - found).abs().max()) <= 1e-5 * max(1.0, float(found.abs().max()))
    assert made.model.record.classes == NAMES and made.scores is None


@pytest.mark.oracle
@pytest.mark.parametrize("which", ["exact", "quick"])
def test_logits_are_those_of_open_clip(tmp_path: Path, which: str) -> None:
    theirs, about = open_clip_model(which)
    theirs.logit_scale.data.fill_(2.0)
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": about}))
    words = [*WORDS[:-1], *(f"w{number}" for number in range(35)), "</s>"]  # the end is the last word of 50
    model = tokenizers.models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<pad>")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 49)]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    ours = vitrail.name(tmp_path, NAMES, prompts=("a {}", "photo of {}")).model
    texts = read_pair(tmp_path).text.config
    with torch.no_grad():
        directions = torch.zeros(len(NAMES), 12)
        for prompt in ("a {}", "photo of {}"):
            ids = encode(tmp_path / "tokenizer.json", [prompt.format(name) for name in NAMES], texts)
            directions += theirs.encode_text(ids, normalize=True)
        directions = torch.nn.functional.normalize(directions, dim=-1)
        found = theirs.logit_scale.exp() * theirs.encode_image(IMAGES, normalize=True) @ directions.T
        assert float((ours(IMAGES) - found).abs().max()) <= 1e-5 * float(found.abs().max())


def test_token_numbers_are_those_of_tokenizers(tmp_path: Path) -> None:
    pair_of("CLIP", tmp_path)
    config, theirs = read_pair(tmp_path).text.config, tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = ["a photo of a cat", "cat", "a a a a a a a a a a a dog"]
    found = encode(tmp_path / "tokenizer.json", texts, config)
    assert found.shape == (3, 9)
    for row, text in zip(found.tolist(), texts, strict=True):
        ids = theirs.encode(text).ids
        wanted = ids if len(ids) <= 9 else [*ids[:8], ids[-1]]  # a long text keeps its end
        assert row[: len(wanted)] == wanted and not any(row[len(wanted) :])


def test_siglip_reads_padding_and_lower_case(tmp_path: Path) -> None:
    pair_of("Siglip", tmp_path)
    config = read_pair(tmp_path).text.config
    assert config.end is None and config.projection_bias
    upper, lower = (encode(tmp_path / "tokenizer.json", [text], config) for text in ("A Cat", "a cat"))
    assert torch.equal(upper, lower) and upper[0, -1] == 0


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Red, green and blue pictures in folders of these names."""
    draws = np.random.default_rng(1)
    for place, colour in enumerate(("red", "green", "blue")):
        (tmp_path / "photos" / colour).mkdir(parents=True)
        for number in range(24):
            picture = draws.integers(0, 60, (32, 32, 3), dtype=np.uint8)
            picture[..., place] += 150
            Image.fromarray(picture).save(tmp_path / "photos" / colour / f"{number}.png")
    return tmp_path / "photos"


def taught(folder: Path, photos: Path) -> Path:
    """A tiny CLIP whose image tower tells colours apart by its text tower: the projection is set so."""
    theirs = pair_of("CLIP", folder)
    images = {
        colour: torch.stack(
            [torch.from_numpy(np.array(Image.open(f))) for f in sorted((photos / colour).iterdir())[:8]]
        )
        for colour in ("red", "green", "blue")
    }
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)))
    with torch.no_grad():
        ids = encode(
            folder / "tokenizer.json", [f"a photo of a {name}" for name in images], read_pair(folder).text.config
        )
        targets = torch.nn.functional.normalize(theirs.get_text_features(ids).pooler_output, dim=-1)
        pixels = torch.cat([(of.permute(0, 3, 1, 2) / 255 - mean) / std for of in images.values()])
        features = theirs.vision_model(pixels).pooler_output
        wanted = (targets - targets.mean(0)).repeat_interleave(8, 0)
        theirs.visual_projection.weight.copy_(torch.linalg.lstsq(features, wanted).solution.T)
        theirs.logit_scale.fill_(3.0)
    theirs.save_pretrained(folder)
    processor = {"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
    processor |= {"image_mean": mean.flatten().tolist(), "image_std": std.flatten().tolist(), "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.mark.flow
def test_labels_from_words_are_an_ordinary_classifier(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, out = taught(tmp_path / "clip", photos), str(tmp_path / "named")
    words = ["name", str(photos), "--weights", str(folder), "--names", "red, green, blue", "--out", out]
    assert main([*words, "--device", "cpu", "--json"]) == 0
    said = capsys.readouterr()
    rows = json.loads(said.out)
    assert rows[0]["classifier"] == "from words" and rows[0]["labelled images"] == 0
    assert rows[0]["from"] < rows[0]["accuracy"] <= rows[0]["to"] and rows[0]["accuracy"] > 0.8
    assert {row["classifier"] for row in rows[1:]} == {"few-shot", "linear probe"}
    least = re.search(r"--calibrated --least (0\.\d+) answers (\d+)%", said.err)
    assert "temperature" in said.err and least and float(least[1]) < 1 and int(least[2]) > 0
    record = bundle.read_record(out)
    assert record.classes == ("red", "green", "blue") and record.config.extras.normalise
    assert record.temperature and record.temperature > 0.01  # few images, all answered right, do not make it certain
    one = str(photos / "green/0.png")
    assert main(["predict", out, one, "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["labels"][0] == "green"
    assert main(["evaluate", out, str(photos), "--device", "cpu"]) == 0
    assert main(["look", out, one, "--out", str(tmp_path / "look.png")]) == 0
    start = read_pretrained(out)  # a head that is trained reads features as they are
    assert not start.config.extras.normalise and start.config.extras.projection == 16
    model, report = bundle.load_for_finetuning(start.config, out)
    assert "head.weight" in report.new and not model.head.weight.any()
    assert any("head made of words stays behind" in line for line in report.lines())


def test_without_labels_there_is_no_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pair_of("CLIP", tmp_path / "clip")
    words = ["name", "--weights", str(tmp_path / "clip"), "--names", "cat,n01440764", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    said = capsys.readouterr()
    assert not said.out and "no accuracy" in said.err and "look like numbers" in said.err and "n01440764" in said.err
    assert main([*words, "--json"]) == 0 and json.loads(capsys.readouterr().out) == []


def test_an_accuracy_stays_where_no_probe_can_run_and_one_reason_is_given_where_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pair_of("CLIP", tmp_path / "clip")
    (tmp_path / "photos/cat").mkdir(parents=True)
    for shade in range(4):
        Image.new("RGB", (32, 32), (60 * shade, 0, 0)).save(tmp_path / f"photos/cat/{shade}.png")
    words = ["name", str(tmp_path / "photos"), "--weights", str(tmp_path / "clip"), "--out", str(tmp_path / "out")]
    assert main([*words, "--names", "cat,dog", "--json", "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert [row["classifier"] for row in json.loads(said.out)] == ["from words"] and "no probes: " in said.err
    assert bundle.read_record(tmp_path / "out").temperature
    assert main([*words, "--names", "lion,dog", "--json", "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == [] and said.err.count("no accuracy") == 1 and "not among the names: cat" in said.err


BAD = [
    ({"names": ("cat",)}, "1 names"),
    ({"names": ("cat", "")}, "an empty name"),
    ({"names": ("cat", "Cat", "dog")}, "there twice: Cat, cat"),
    ({"names": tuple(f"name {k}" for k in range(10_000))}, "10,000 names; allowed: 5,000 at most"),
    ({"prompts": ("a photo",)}, "has no place for the name"),
    ({"prompts": ()}, "no prompts"),
]


@pytest.mark.parametrize(("given", "sentence"), BAD)
def test_names_and_prompts_that_cannot_be(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        vitrail.name("nowhere", **{"names": ("cat", "dog"), **given})


def test_weights_that_cannot_name(tmp_path: Path) -> None:
    folder = tmp_path / "pair"
    pair_of("CLIP", folder)
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    config = (folder / "config.json").read_text()

    def write(name: str, some: dict[str, torch.Tensor], tokenizer: bool = True) -> Path:
        (tmp_path / name).mkdir()
        safetensors.torch.save_file(some, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(config)
        if tokenizer:
            (tmp_path / name / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
        return tmp_path / name

    images = {name: tensor for name, tensor in tensors.items() if name.startswith("vi")}
    with pytest.raises(WeightsError, match="has no text tower"):
        vitrail.name(write("images", images), NAMES)
    texts = {name: tensor for name, tensor in tensors.items() if name.startswith("text_")}
    with pytest.raises(WeightsError, match="is of no known origin"):
        vitrail.name(write("texts", texts), NAMES)
    with pytest.raises(WeightsError, match=r"has no tokenizer\.json"):
        vitrail.name(write("bare", tensors, tokenizer=False), NAMES)
    other = {**tensors, "text_projection.weight": torch.zeros(9, 16)}
    with pytest.raises(WeightsError, match="gives images 16 features and texts 9"):
        vitrail.name(write("other", other), NAMES)
    short = {**tensors, "text_model.embeddings.token_embedding.weight": torch.zeros(5, 16)}
    with pytest.raises(WeightsError, match="tokenizer of another text tower"):
        vitrail.name(write("short", short), NAMES)
    odd = write("odd", tensors)
    (odd / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsError, match="is no tokenizer"):
        vitrail.name(odd, NAMES)


@pytest.mark.parametrize("weights", ["timm:resnet18", "dinov2-s/14", "bundle", "runs/a"])
def test_weights_of_images_alone_have_no_text_tower(in_folder: Path, weights: str) -> None:
    teacher(in_folder / "bundle")
    teacher(in_folder / "runs/a/best")
    with pytest.raises(WeightsError, match=f"{weights} has no text tower"):
        vitrail.name(weights, NAMES)


def test_the_least_probability_keeps_95_of_100_right() -> None:
    draws = np.random.default_rng(1)
    sure = draws.random(2_000)
    right = draws.random(2_000) < sure  # believable probabilities
    least = find_least(sure, right)
    assert least and right[sure >= least].mean() >= 0.95 and 0.85 < least < 0.97
    lower = np.sort(sure)[np.searchsorted(np.sort(sure), least) - 1]
    assert right[sure >= lower].mean() < 0.95
    assert find_least(sure, np.zeros(2_000, bool)) is None
    assert find_least(sure[:10], np.ones(10, bool)) is None  # ten images say nothing of 95 %
