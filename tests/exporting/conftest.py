"""A small trained-like model with its record, a set of images, and its export."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.shapes import unchecked
from vitrail.api.models import save
from vitrail.exporting.onnx_file import export_onnx
from vitrail.exporting.subject import Subject
from vitrail.images.preprocess import Preprocess
from vitrail.images.samples import Source, from_arrays
from vitrail.models import zoo
from vitrail.models.backbone import Backbone, ModelConfig
from vitrail.models.vit import ViTConfig
from vitrail.weights.bundle import load
from vitrail.weights.record import Record

CLASSES = ("ant", "bee", "cat", "dog", "eel")
UNEVEN = Preprocess(size=(32, 24), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""No two channels alike, no square: what is swapped is seen."""
TINY = ViTConfig(width=32, depth=2, heads=2, mlp_width=48, patch=(8, 8), image=(32, 24), classes=5)


def ready(config: ModelConfig, preprocess: Preprocess = UNEVEN) -> Backbone:
    """A model that tells images apart, with a record."""
    model = zoo.build(config).eval()
    draws = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draws))
    model.record = Record(config=config, preprocess=preprocess, classes=CLASSES, sha256="0" * 64)
    return model


def pictures(number: int = 24, size: tuple[int, int] = (40, 30)) -> Source:
    draws = np.random.default_rng(5)
    coarse = draws.integers(0, 255, (number, size[0] // 5, size[1] // 5, 3), dtype=np.uint8)
    images = coarse.repeat(5, axis=1).repeat(5, axis=2)
    return from_arrays("pictures", images, np.arange(number) % 5, CLASSES)


def subject_of(model: Backbone, source: Source | None = None) -> Subject:
    return Subject(model, model.record, None, source, "pictures")


@pytest.fixture(autouse=True)
def _symbolic_sizes() -> Iterator[None]:
    with unchecked():
        yield


@pytest.fixture(scope="session")
def model() -> Backbone:
    return ready(TINY)


@pytest.fixture(scope="session")
def bundle(model: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "small"
    save(model, folder)
    return folder


def graph_of(path: Path) -> Any:
    """The graph of an exported file, without its facts."""
    import onnx

    found = onnx.load(path)
    found.ClearField("metadata_props")
    return found


@pytest.fixture(scope="session")
def exported(bundle: Path) -> Path:
    """The ONNX file of the small model."""
    pytest.importorskip("onnxscript", reason="needs vitrail[export]")
    pytest.importorskip("onnxruntime", reason="needs vitrail[export]")
    with unchecked():
        return export_onnx(subject_of(load(bundle), pictures()), bundle.with_suffix(".onnx")).path
