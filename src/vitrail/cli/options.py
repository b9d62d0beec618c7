"""Options that several commands share, in one vocabulary; without torch, so that `--help` is quick."""

from dataclasses import dataclass
from typing import Literal

from vitrail.cli.arguments import Switch
from vitrail.reports.tables import Output

Precision = Literal["auto", "fp32", "bf16"]
# the same literals as in vitrail.training.unseen, prediction.views, prediction.engines and evaluation.layers, which import torch
Split = Literal["auto", "train", "val", "test", "all"]
Views = Literal["one", "flip", "five", "ten"]
EngineName = Literal["auto", "torch", "onnxruntime", "openvino"]
Pool = Literal["auto", "cls", "mean", "cls+mean"]


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Where and how a model answers."""

    batch: int = 64
    """Images through the model at once."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Precision = "auto"
    threads: int = 0
    """CPU threads; 0 leaves the choice to torch and OMP_NUM_THREADS."""
    workers: int = -1
    """Loader processes; -1 chooses."""


@dataclass(frozen=True, kw_only=True)
class Runtime(Compute):
    """The same, for commands that an exported model answers too."""

    engine: EngineName = "auto"
    """The runtime: torch for weights, ONNX Runtime for an ONNX file, OpenVINO for its own folder or for an ONNX file."""


@dataclass(frozen=True, kw_only=True)
class Links:
    """How a folder of images is read."""

    follow_links: Switch = False
    """Follow links that lead out of the folder."""


@dataclass(frozen=True, kw_only=True)
class Opening(Links):
    """How images are opened."""

    download: Switch = False
    """Fetch a named set, or one of the Hugging Face Hub (hf:owner/name), where it is not on this machine."""


@dataclass(frozen=True, kw_only=True)
class Part(Opening):
    """Which images are measured."""

    split: Split = "auto"
    """Which part, all of it: what the model was trained on is counted, not left out."""


@dataclass(frozen=True, kw_only=True)
class HeldOut(Opening):
    """Which images are held out."""

    holdout: float = 0.2
    """Share of the images held out where the data has no split of its own."""


@dataclass(frozen=True, kw_only=True)
class Show:
    """How the answer is printed."""

    format: Output = "table"
    """table, json or csv; --json and --csv say the same."""
