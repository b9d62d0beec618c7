"""Names that lead to weights: `vitrail.load("dinov3-s/16")`. One literal table; the Hugging Face hub has the files.

The numbers are published ones, on ImageNet-1k. "zero-shot": class names in place of training; "linear": a linear map on
frozen features; "fine-tuned": the whole network. Read on 2026-11-29: the READMEs of DeiT, DINOv2, SigLIP 2 (big_vision) and
PE; MAE's paper; `results-imagenet.csv` of timm; `openclip_results.csv` of open_clip. A model that they lack has no number.

No row has a revision or a digest: they were not known where the table was written. The hub's newest commit is taken, and
its file is compared with the digest that the hub gives.
"""

from dataclasses import dataclass

LVD, WEBLI, LAION = "LVD-142M", "WebLI", "LAION-2B"
APACHE, MIT, DINO, NON_COMMERCIAL = "Apache-2.0", "MIT", "DINOv3 License", "CC-BY-NC-4.0"
OPEN_CLIP = "open_clip_model.safetensors"


@dataclass(frozen=True)
class Published:
    """Weights that someone published, and what a person asks before the first use."""

    hub: str
    """owner/name on the hub."""
    data: str
    """Their training images."""
    licence: str
    score: str = ""
    """Top-1 accuracy in percent and how it was reached, as published."""
    image: int = 224
    file: str = "model.safetensors"
    texts: bool = False
    """Whether a text tower lies in the file: `vitrail name` makes a classifier of it."""
    gated: bool = False
    """Whether the hub asks who wants them."""
    revision: str = ""
    """A commit of the hub; empty: the newest."""
    sha256: str = ""
    """The digest of the file, where it is known. Another file is refused."""

    @property
    def top1(self) -> float | None:
        """The accuracy as a number."""
        return float(self.score.partition(" ")[0]) if self.score else None

    @property
    def how(self) -> str:
        """How it was reached: zero-shot, linear, fine-tuned."""
        return self.score.partition(" ")[2]

    @property
    def terms(self) -> str:
        """The licence, and whether the hub asks who wants the weights."""
        return self.licence + (" (gated)" if self.gated else "")

    @property
    def address(self) -> str:
        """The name for `vitrail.load`, without the table."""
        return f"hf:{self.hub}/{self.file}" + (f"@{self.revision}" if self.revision else "")


def _openai(name: str, score: str, image: int = 224) -> Published:
    return Published(f"openai/clip-vit-{name}", "400 M pairs (WIT)", MIT, score, image, texts=True)


def _laion(name: str, score: str) -> Published:
    return Published(f"laion/CLIP-ViT-{name}", LAION, MIT, score, file=OPEN_CLIP, texts=True)


def _siglip(name: str, score: str = "", image: int = 224) -> Published:
    return Published(f"google/{name}", WEBLI, APACHE, score, image, texts=True)


def _dinov3(name: str, data: str = "LVD-1689M") -> Published:
    return Published(f"facebook/dinov3-{name}", data, DINO, gated=True)


def _timm(name: str, data: str, licence: str, score: str = "", image: int = 224) -> Published:
    return Published(f"timm/{name}", data, licence, score, image)


IN21K, IN1K = "ImageNet-21k", "ImageNet-21k, then -1k"
PUBLISHED: dict[str, Published] = {
    # the paper's models; AugReg is its authors' later training
    "vit-b/16-in21k": Published("google/vit-base-patch16-224-in21k", IN21K, APACHE),
    "vit-l/16-in21k": Published("google/vit-large-patch16-224-in21k", IN21K, APACHE),
    "vit-h/14-in21k": Published("google/vit-huge-patch14-224-in21k", IN21K, APACHE),
    "vit-b/16-in1k": Published("google/vit-base-patch16-224", IN1K, APACHE),
    "vit-b/16-384-in1k": Published("google/vit-base-patch16-384", IN1K, APACHE, image=384),
    "vit-ti/16-augreg": _timm("vit_tiny_patch16_224.augreg_in21k_ft_in1k", IN1K, APACHE, "75.5 fine-tuned"),
    "vit-s/16-augreg": _timm("vit_small_patch16_224.augreg_in21k_ft_in1k", IN1K, APACHE, "81.4 fine-tuned"),
    "vit-b/16-augreg": _timm("vit_base_patch16_224.augreg2_in21k_ft_in1k", IN1K, APACHE, "85.1 fine-tuned"),
    "deit-ti/16": Published("facebook/deit-tiny-patch16-224", "ImageNet-1k", APACHE, "72.2 trained"),
    "deit-s/16": Published("facebook/deit-small-patch16-224", "ImageNet-1k", APACHE, "79.9 trained"),
    "deit-b/16": Published("facebook/deit-base-patch16-224", "ImageNet-1k", APACHE, "81.8 trained"),
    # without labels
    "dinov2-s/14": Published("facebook/dinov2-small", LVD, APACHE, "81.1 linear", 518),
    "dinov2-b/14": Published("facebook/dinov2-base", LVD, APACHE, "84.5 linear", 518),
    "dinov2-l/14": Published("facebook/dinov2-large", LVD, APACHE, "86.3 linear", 518),
    "dinov2-g/14": Published("facebook/dinov2-giant", LVD, APACHE, "86.5 linear", 518),
    "dinov2-s/14-reg4": Published("facebook/dinov2-with-registers-small", LVD, APACHE, "80.9 linear", 518),
    "dinov2-b/14-reg4": Published("facebook/dinov2-with-registers-base", LVD, APACHE, "84.6 linear", 518),
    "dinov2-l/14-reg4": Published("facebook/dinov2-with-registers-large", LVD, APACHE, "86.7 linear", 518),
    "dinov3-s/16": _dinov3("vits16-pretrain-lvd1689m"),
    "dinov3-s+/16": _dinov3("vits16plus-pretrain-lvd1689m"),
    "dinov3-b/16": _dinov3("vitb16-pretrain-lvd1689m"),
    "dinov3-l/16": _dinov3("vitl16-pretrain-lvd1689m"),
    "dinov3-h+/16": _dinov3("vith16plus-pretrain-lvd1689m"),
    "dinov3-l/16-sat": _dinov3("vitl16-pretrain-sat493m", "SAT-493M"),
    "dinov3-s/16-timm": _timm("vit_small_patch16_dinov3.lvd1689m", "LVD-1689M", DINO, image=256),
    "dinov3-b/16-timm": _timm("vit_base_patch16_dinov3.lvd1689m", "LVD-1689M", DINO, image=256),
    "dinov3-l/16-timm": _timm("vit_large_patch16_dinov3.lvd1689m", "LVD-1689M", DINO, image=256),
    "mae-b/16": Published("facebook/vit-mae-base", "ImageNet-1k", NON_COMMERCIAL, "83.6 fine-tuned"),
    "mae-l/16": Published("facebook/vit-mae-large", "ImageNet-1k", NON_COMMERCIAL, "85.9 fine-tuned"),
    "ijepa-h/14": Published("facebook/ijepa_vith14_1k", "ImageNet-1k", NON_COMMERCIAL),
    "msn-b/16": Published("facebook/vit-msn-base", "ImageNet-1k", NON_COMMERCIAL),
    # with texts
    "clip-b/32-openai": _openai("base-patch32", "63.3 zero-shot"),
    "clip-b/16-openai": _openai("base-patch16", "68.3 zero-shot"),
    "clip-l/14-openai": _openai("large-patch14", "75.5 zero-shot"),
    "clip-l/14-336-openai": _openai("large-patch14-336", "76.6 zero-shot", 336),
    "clip-b/32-laion2b": _laion("B-32-laion2B-s34B-b79K", "66.6 zero-shot"),
    "clip-b/16-laion2b": _laion("B-16-laion2B-s34B-b88K", "70.2 zero-shot"),
    "clip-l/14-laion2b": _laion("L-14-laion2B-s32B-b82K", "75.3 zero-shot"),
    "clip-h/14-laion2b": _laion("H-14-laion2B-s32B-b79K", "78.0 zero-shot"),
    "siglip-b/16": _siglip("siglip-base-patch16-224"),
    "siglip-so400m/14-384": _siglip("siglip-so400m-patch14-384", "", 384),
    "siglip2-b/16": _siglip("siglip2-base-patch16-224", "78.2 zero-shot"),
    "siglip2-b/16-256": _siglip("siglip2-base-patch16-256", "79.1 zero-shot", 256),
    "siglip2-b/16-512": _siglip("siglip2-base-patch16-512", "81.2 zero-shot", 512),
    "siglip2-l/16-256": _siglip("siglip2-large-patch16-256", "82.5 zero-shot", 256),
    "siglip2-so400m/14-384": _siglip("siglip2-so400m-patch14-384", "84.1 zero-shot", 384),
    "siglip2-so400m/16-naflex": _siglip("siglip2-so400m-patch16-naflex", "83.5 zero-shot", 256),
    "pe-core-b/16": _timm("vit_pe_core_base_patch16_224.fb", "5.4 G pairs", APACHE, "78.4 zero-shot"),
    "pe-core-l/14-336": _timm("vit_pe_core_large_patch14_336.fb", "5.4 G pairs", APACHE, "83.5 zero-shot", 336),
    "eva02-l/14-448": _timm(
        "eva02_large_patch14_448.mim_m38m_ft_in22k_in1k", "Merged-38M, ImageNet", MIT, "90.1 fine-tuned", 448
    ),
}


def find_published(name: object) -> Published | None:
    """The row of a name; None for anything else, such as a path."""
    return PUBLISHED.get(str(name))
