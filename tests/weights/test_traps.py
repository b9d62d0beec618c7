"""Every trap of published weights that changes outputs in silence, and the test that holds it.

| trap | test |
|---|---|
| Meta rounds DINOv3's periods, others compute them | test_meta_s_rounded_periods_are_honoured_and_go_to_no_one_who_computes_them |
| periods that no model here has | test_periods_of_another_base_are_refused |
| DINOv3's mask over q, k and v; NaN under it | test_meta_s_dinov3, test_a_masked_bias_may_be_anything |
| timm drops biases that are zero, or keeps them (`_qkvb`) | test_timm_s_eva_models |
| a norm for small crops; a norm for the class token | test_meta_s_dinov3, test_a_second_final_norm_is_refused |
| DINOv3 has no image size and squashes; satellites have another mean | test_dinov3_s_images |
| epsilons | test_epsilons_of_each_origin |
| QuickGELU leaves no trace | test_quick_gelu_leaves_no_trace_and_is_told_by_what_there_is |
| without config.json a CLIP's GELU is assumed, and said | test_without_its_config_a_clip_says_which_gelu_it_took |
| QuickGELU in the name of timm's architecture | test_what_only_the_name_of_timm_s_architecture_says |
| CLIP norms one token or all | test_transformers_and_open_clip_norm_other_tokens_and_give_the_same_answer |
| heads of the probe: 8 in PE, the tower's in SigLIP | test_meta_s_perception_encoder, test_transformers_towers |
| the width of its MLP (PE-Core G) | test_timm_s_eva_models |
| SigLIP's texts are read at the last place | test_logits_are_those_of_transformers |
| padding of SigLIP's texts | test_the_padding_of_siglip_s_texts_is_part_of_the_function |
| YOLOS's detection tokens, AST's mean of two tokens: no model here | test_transformers_types_that_no_model_here_is |
| the same tensors, another function | test_models_of_timm_that_would_fit_and_say_something_else_are_refused |
| a file written for code that computes something else | test_tensors_that_fit_another_function_are_not_written |
"""

import re
from pathlib import Path

import pytest
import torch

from tests.weights.test_names_from_words import pair_of
from tests.weights.test_rotary_towers import meta_file
from tests.weights.test_towers import IMAGES
from vitrail.errors import WeightsError
from vitrail.weights import bundle
from vitrail.weights.origin import ORIGINS
from vitrail.weights.texts import encode, read_pair

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]


def test_each_trap_of_the_table_has_its_test() -> None:
    here = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    named = re.findall(r"test_\w+", __doc__)
    assert len(named) > 15
    assert not [name for name in named if f"def {name}(" not in here]


@pytest.fixture
def dinov3(tmp_path: Path) -> Path:
    meta_file(tmp_path / "dinov3.pth")
    return tmp_path / "dinov3.pth"


def change(path: Path, **tensors: torch.Tensor) -> Path:
    torch.save({**torch.load(path, weights_only=True), **tensors}, path)
    return path


def test_a_masked_bias_may_be_anything(dinov3: Path) -> None:
    """Its code fills the whole mask with NaN before it is set."""
    before = bundle.load(dinov3)
    bias = torch.load(dinov3, weights_only=True)["blocks.0.attn.qkv.bias"]
    bias[len(bias) // 3 : 2 * len(bias) // 3] = torch.nan
    after = bundle.load(change(dinov3, **{"blocks.0.attn.qkv.bias": bias}))
    assert torch.equal(before(IMAGES.float()), after(IMAGES.float()))


def test_a_second_final_norm_is_refused(dinov3: Path) -> None:
    with pytest.raises(WeightsError, match="second final norm, for its class token"):
        bundle.load(change(dinov3, **{"cls_norm.weight": torch.ones(32), "cls_norm.bias": torch.zeros(32)}))


def test_dinov3_s_images(dinov3: Path) -> None:
    """Any size that the patch divides; straight to size; pictures of satellites have another mean and deviation."""
    found = bundle.load(dinov3)
    assert found.record.preprocess.resize == "squash" and found.record.preprocess.mean == (0.485, 0.456, 0.406)
    assert found(torch.zeros(1, 3, 72, 24)).shape == found(torch.zeros(1, 3, 32, 32)).shape
    satellite = dinov3.rename(dinov3.with_name("dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth"))
    assert bundle.load(satellite).record.preprocess.mean == (0.430, 0.411, 0.296)


EPSILONS = {
    ("dinov2", "plain"): 1e-6, ("dinov3", "registers"): 1e-5, ("open_clip", "CLIP"): 1e-5, ("transformers", "ViT"): 1e-12,
    ("open_clip", "Perception Encoder"): 1e-5, ("transformers", "CLIP"): 1e-5, ("transformers", "SigLIP"): 1e-6,
    ("transformers", "DINOv3"): 1e-5, ("transformers", "DINOv2"): 1e-6, ("timm", "timm"): 1e-6,
}  # fmt: skip


@pytest.mark.parametrize("which", EPSILONS)
def test_epsilons_of_each_origin(which: tuple[str, str]) -> None:
    """Files do not have them."""
    origin, style = which
    assert ORIGINS[origin].styles[style].habits["norm_eps"] == EPSILONS[which]


def test_the_padding_of_siglip_s_texts_is_part_of_the_function(tmp_path: Path) -> None:
    pair_of("Siglip", tmp_path)
    tower = read_pair(tmp_path).text
    ids = encode(tmp_path / "tokenizer.json", ["a photo of a cat"], tower.config)
    assert ids.shape[1] == tower.config.length and not ids[0, -1]
    with torch.no_grad():
        assert not torch.allclose(tower(ids), tower(ids[:, :-1]), atol=1e-3)
