"""An OpenVINO graph in int8, by NNCF: plain, or with accuracy control on the person's own images."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from vitrail.exporting.graph import quietly
from vitrail.exporting.subject import Subject, require_images
from vitrail.images.samples import Source
from vitrail.prediction.exported_engine import missing
from vitrail.prediction.openvino_engine import stop_telemetry
from vitrail.scores.classification import index_labels

CALIBRATION, CHOOSING = 128, 1000
"""Images that give the scales of int8 (32 are enough in the tables of PTQ4ViT), and the most that choose its layers."""
LEAST = 16
"""Images without which int8 is not tried."""
BATCH = 8


def quantise(graph: Any, subject: Subject, within: float, *, control: bool = True) -> Any:
    """The graph in int8. With `control`, layers that cost most accuracy go back to float until the loss is within the bound.

    Every second image chooses: the others are left for the certificate.
    """
    library = nncf()
    fold_constants(graph)
    source = require_images(subject, "int8", LEAST)
    chooses = spread(source.subset(np.arange(0, len(source), 2)), CHOOSING)
    rows = labelled(subject, chooses)
    alone = [images[k : k + 1] for images, _ in rows for k in range(len(images))][:CALIBRATION]
    few = library.Dataset(alone)
    settings: dict[str, Any] = {"subset_size": len(alone), "model_type": library.ModelType.TRANSFORMER}
    with quietly():
        if not control:
            return library.quantize(graph, few, **settings)
        return library.quantize_with_accuracy_control(
            graph,
            calibration_dataset=few,
            validation_dataset=library.Dataset(rows, first),
            validation_fn=share_right,
            max_drop=within / 100,
            **settings,
        )


def fold_constants(graph: Any) -> None:
    """Computes what has no input: NNCF takes the axes of a constant for a weight's, though a Reshape follows.

    The ONNX exporter does so for small constants only, and the weight of the patches is a large one.
    """
    from openvino import passes  # pyrefly: ignore[missing-import]

    steps = passes.Manager()
    steps.register_pass(passes.ConstantFolding())
    steps.run_passes(graph)


def spread(source: Source, most: int) -> Source:
    """At most so many of the images: a fixed draw, so that every part of them has all classes."""
    order = np.random.default_rng(0).permutation(len(source))[:most]
    return source.subset(order)


def labelled(subject: Subject, source: Source) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches of images as the graph reads them, with the numbers of their classes in the model."""
    preprocess = subject.record.preprocess
    classes = subject.record.classes or source.classes
    labels = index_labels(source.labels, source.classes, classes)
    spans = [range(at, min(at + BATCH, len(source))) for at in range(0, len(source), BATCH)]
    return [
        (torch.stack([preprocess.read(source[k]) for k in span]).numpy(), np.asarray(labels[span.start : span.stop]))
        for span in spans
    ]


def first(row: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return row[0]


def share_right(runs: Any, rows: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[float, None]:
    """Top-1 of a compiled graph."""
    right = [(runs([images])[0].argmax(1) == labels) for images, labels in rows]
    return float(np.concatenate(right).mean()), None


def nncf() -> Any:
    """The package, without its telemetry. ConfigError where it is not installed."""
    stop_telemetry()
    try:
        import nncf as library
    except ImportError:
        raise missing("nncf", "openvino") from None
    return library
