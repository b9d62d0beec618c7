"""Image tower and text tower of one file: CLIP and SigLIP under the names of transformers and of open_clip."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.config import read_object
from vitrail.errors import ConfigError, WeightsError
from vitrail.models.text import TextConfig, TextTower
from vitrail.weights.bundle import Weights, find_bundle, missing, read
from vitrail.weights.files.hub import locate
from vitrail.weights.files.index import read_content
from vitrail.weights.fit import fit
from vitrail.weights.name_tables import Row, count, pair, rows_of, tensors, to_ours, to_shapes
from vitrail.weights.origins.open_clip import resblocks
from vitrail.weights.origins.transformers_config import ACTIVATIONS
from vitrail.weights.origins.transformers_names import tower_layers
from vitrail.weights.published import find_published
from vitrail.weights.published_file import find_sidecar, only_file
from vitrail.weights.record import Told
from vitrail.weights.timm_pretrained import is_timm_name

_EMBEDDED = {"tokens.weight": "token_embedding.weight", "positions": "position_embedding.weight"}
TRANSFORMERS = (
    *tensors("", "text_model.embeddings.", _EMBEDDED),
    *tower_layers("text_model."),
    *pair("norm", "text_model.final_layer_norm"),
    Row("projection.weight", ("text_projection.weight",), when=("projection_bias", False)),
    *pair("projection", "text_model.head", when=("projection_bias", True)),
)
OPEN_CLIP = (
    *tensors("", "", {"tokens.weight": "token_embedding.weight", "positions": "positional_embedding"}),
    *resblocks(""),
    *pair("norm", "ln_final"),
    Row("projection.weight", ("text_projection",), "dense", when=("projection_bias", False)),
    *pair("projection", "text_projection", when=("projection_bias", True)),
)
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, eq=False)
class Pair:
    """Both towers, and what makes logits of their cosines: scale · cosine + bias."""

    image: Weights
    text: TextTower
    scale: float
    bias: float
    tokenizer: Path


def read_pair(path: str | Path, *, config: Told = None) -> Pair:
    """The towers in a file, a folder or under a name. WeightsError where one of them, or the tokenizer, is not there."""
    known = find_published(path)
    if is_timm_name(path) or (known and not known.texts):
        raise no_texts(path)
    local = locate(path, (TOKENIZER,))
    if not local.exists():
        raise missing(path)
    if (local / "run.json").is_file() or find_bundle(local):  # ours hold image towers only
        raise no_texts(path)
    file = only_file(local)
    tensors = read_content(file).tensors
    sidecar = find_sidecar(file)
    text = read_text(tensors, read_object(sidecar, WeightsError) if sidecar else {}, str(path))
    tokenizer = file.with_name(TOKENIZER)
    if not tokenizer.is_file():
        raise WeightsError(f"{path} has no {TOKENIZER} next to it", next_step="copy it from where the weights are from")
    image = read(path, config=config)
    width = image.record.config.read_width
    if width != text.config.projection:
        raise WeightsError(
            f"{path} gives images {width} features and texts {text.config.projection}",
            next_step="take the whole model, with its projections",
        )
    scale, bias = (float(tensors[name].float()) if name in tensors else 0.0 for name in ("logit_scale", "logit_bias"))
    return Pair(image, text, float(torch.tensor(scale).exp()), bias, tokenizer)


def no_texts(where: str | Path) -> WeightsError:
    """The error for weights of images alone."""
    return WeightsError(
        f"{where} has no text tower", next_step="take both towers, such as clip-b/16-openai or siglip2-b/16"
    )


def read_text(tensors: Mapping[str, Tensor], about: Mapping[str, Any], where: str) -> TextTower:
    """The text tower among the tensors of a file. WeightsError where there is none."""
    plain = {name.removeprefix("text."): tensor for name, tensor in tensors.items() if "visual." not in name}
    if "text_model.embeddings.token_embedding.weight" in plain:
        table, said = TRANSFORMERS, _said_by_transformers(plain, about)
    elif "token_embedding.weight" in plain:
        table, said = OPEN_CLIP, _said_by_open_clip(plain, about)
    else:
        raise no_texts(where)
    config = TextConfig(**_sizes(to_shapes(table, plain, where)), **said)
    with torch.device("meta"):
        tower = TextTower(config)
    rows = rows_of(table, tower.state_dict().keys(), config)
    wanted = {name for row in rows for name in row.theirs}
    fit(tower, to_ours(rows, {name: t for name, t in plain.items() if name in wanted}, where=where), where=where)
    return tower.eval().float()


def _sizes(ours: Mapping[str, Tensor]) -> dict[str, Any]:
    vocabulary, width = ours["tokens.weight"].shape
    return {
        "vocabulary": vocabulary,
        "length": len(ours["positions"]),
        "width": width,
        "depth": count(ours, "blocks."),
        "mlp_width": len(ours["blocks.0.mlp.fc1.weight"]),
        "projection": len(ours["projection.weight"]),
        "projection_bias": "projection.bias" in ours,
    }


def _said_by_transformers(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> dict[str, Any]:
    said, siglip = about.get("text_config") or {}, "text_model.head.weight" in tensors
    last, end = len(tensors["text_model.embeddings.token_embedding.weight"]) - 1, said.get("eos_token_id", 49_407)
    return {
        "heads": said.get("num_attention_heads", 12 if siglip else 8),
        "activation": ACTIVATIONS[said.get("hidden_act", "gelu_pytorch_tanh" if siglip else "quick_gelu")],
        "norm_eps": said.get("layer_norm_eps", 1e-6 if siglip else 1e-5),
        "end": None if siglip else last if end == 2 else end,  # old files say 2 and mean the last of all
    }


def _said_by_open_clip(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> dict[str, Any]:
    model = about.get("model_cfg") or {}
    said, (vocabulary, width) = model.get("text_cfg") or {}, tensors["token_embedding.weight"].shape
    tanh = (said.get("act_kwargs") or {}).get("approximate") == "tanh"
    return {
        "heads": said.get("heads", width // 64),
        "activation": "gelu-quick" if model.get("quick_gelu") else "gelu-tanh" if tanh else "gelu",
        "norm_eps": (said.get("norm_kwargs") or {}).get("eps", 1e-5),
        "end": None if said.get("no_causal_mask") else vocabulary - 1,
    }


def encode(path: Path, texts: Sequence[str], config: TextConfig) -> Int[Tensor, "B T"]:
    """Token numbers, cut and padded to the tower's length. ConfigError without `tokenizers`; WeightsError for another
    tower's tokenizer.

    SigLIP was trained on lower-case texts.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ConfigError("tokenizers is not installed", next_step="pip install 'vitrail[text]'") from None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises bare Exceptions
        raise WeightsError(f"{path} is no tokenizer that is known here ({error})", next_step="copy it again") from None
    padding = (tokenizer.padding or {}).get("pad_id", tokenizer.token_to_id("<pad>"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    rows = torch.full((len(texts), config.length), 0 if padding is None else padding)
    for row, text in zip(rows, texts, strict=True):
        found = tokenizer.encode(text if config.end is not None else text.lower()).ids
        found = found if len(found) <= config.length else [*found[: config.length - 1], found[-1]]
        row[: len(found)] = torch.tensor(found, dtype=torch.long)
    if int(rows.max()) >= config.vocabulary or (config.end is not None and not rows.eq(config.end).any(1).all()):
        raise WeightsError(
            f"{path} is the tokenizer of another text tower: this one knows {config.vocabulary:,} tokens",
            next_step="copy the tokenizer.json of these weights",
        )
    return rows


@torch.no_grad()
def embed_names(pair: Pair, names: Sequence[str], prompts: Sequence[str]) -> Float[Tensor, "K P"]:
    """A direction for each name: the mean over the prompts of their texts' directions, of length 1."""
    found = []
    for prompt in prompts:
        ids = encode(pair.tokenizer, [prompt.replace("{}", name) for name in names], pair.text.config)
        texts = torch.cat([pair.text(part) for part in ids.split(64)])
        found.append(torch.nn.functional.normalize(texts, dim=-1))
    return torch.nn.functional.normalize(torch.stack(found).mean(0), dim=-1)
