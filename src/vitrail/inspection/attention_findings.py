"""Analyses of attention: where it goes, what the answer rests on, and how far the heads look."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from vitrail.errors import DoesNotApply
from vitrail.inspection import figures
from vitrail.inspection.attention_hooks import attention_layers, layout_of, prepare_images
from vitrail.inspection.figures import overlay, sheet
from vitrail.inspection.maps import attention, rollout_of
from vitrail.inspection.relevance import grad_cam, relevance
from vitrail.inspection.subject import Finding, Subject, peak, table_of
from vitrail.prediction.forward import answering, class_names, place

IMAGE = {"image": "{}"}
LOOKS = IMAGE | {
    "layer": "{}",
    "head": "{}",
    "on patches": "{:.3f}",
    "peak row": "{}",
    "peak column": "{}",
    "peak share": "{:.3f}",
}
PEAKS = IMAGE | {"method": "{}", "sum": "{:.4g}", "peak row": "{}", "peak column": "{}", "peak": "{:.4g}"}
HEADS = {
    "layer": "{}", "head": "{}", "distance": "{:.1f}", "distance_std": "{:.1f}", "entropy": "{:.3f}", "view": "{:.3f}",
    "prefix": "{:.3f}",
}  # fmt: skip


def describe_attention(subject: Subject) -> Finding:
    """Where the class token looks, layer by layer and head by head."""
    few = subject.few
    attention_layers(subject.model)  # a model without any says so
    prefix = layout_of(subject.model, few).prefix
    maps = attention(subject.model, few, layers=subject.layers, heads=subject.heads, queries=[0] if prefix else None)
    looks = [found.patches.mean(2) for found in maps]  # B a h w; without a class token, the mean of all patches
    who = "the class token" if prefix else "the mean patch"
    steps = sorted({round(k) for k in np.linspace(0, len(maps) - 1, min(7, len(maps)))})
    layers, last = [], []
    for b, picture in enumerate(subject.pictures):
        layers.append(
            [("", picture), *((f"layer {maps[k].layer}", overlay(picture, looks[k][b].mean(0))) for k in steps)]
        )
        heads = enumerate(maps[-1].heads[:8])
        last.append([("", picture), *((f"head {head}", overlay(picture, looks[-1][b, a])) for a, head in heads)])
    rows = (
        (subject.key(b), found.layer, head, *peak(looks[k][b, a]))
        for b in range(len(few))
        for k, found in enumerate(maps)
        for a, head in enumerate(found.heads)
    )
    alt = f"Pictures with the attention of {who} laid over them"
    return Finding(
        f"What {who} looks at. Above: the mean of the heads, through the layers; below: each head of layer "
        f"{maps[-1].layer}. Bright is much attention, each map scaled to its largest.",
        (
            sheet("attention-layers", layers, f"{alt}: {len(steps)} layers."),
            sheet("attention-heads", last, f"{alt}: the heads of layer {maps[-1].layer}."),
        ),
        table_of(rows, LOOKS),
        heading=f"Attention of {who}",
    )


def explain_answers(subject: Subject) -> Finding:
    """Rollout, relevance and Grad-CAM beside one another, for the likeliest answer."""
    few, found, why = subject.few, {}, []
    methods: dict[str, Callable[..., Tensor]] = {"rollout": rollout_of, "relevance": relevance, "Grad-CAM": grad_cam}
    for name, method in methods.items():
        try:
            found[name] = method(subject.model, few)
        except DoesNotApply as reason:
            why.append(f"No {name}: {reason.found}.")
    if not found:
        raise DoesNotApply(" ".join(why))
    answers = _answers(subject)
    rows = [
        [(answers[b], picture), *((name, overlay(picture, maps[b])) for name, maps in found.items())]
        for b, picture in enumerate(subject.pictures)
    ]
    peaks = [(subject.key(b), name, *peak(maps[b])) for name, maps in found.items() for b in range(len(few))]
    text = (
        "Rollout multiplies the layers' attention, whatever the answer. Relevance (Chefer et al. 2021) weighs attention by its "
        "gradient towards the answer, Grad-CAM the channels of the last map. The methods can disagree; trust what they agree on."
    )
    sheets = (sheet("flow", rows, f"Pictures beside {', '.join(found)} laid over them."),)
    return Finding(" ".join([text, *why]), sheets, table_of(peaks, PEAKS), found)


def measure_heads(subject: Subject) -> Finding:
    """Attention distance, view and prefix share by layer."""
    layers = subject.measured
    height, width = subject.images.shape[2:]
    most = float(max(layer.distance.mean(0).max() for layer in layers))
    first, last = layers[0].distance.mean(0), layers[-1].distance.mean(0)
    plates = [
        figures.by_depth(
            "attention-distance", layers, "distance", "pixels", title="Mean attention distance", most=1.15 * most
        ),
        figures.by_depth("view", layers, "view", "share of the image", title="How much a head sees", most=1.02),
        figures.by_depth("entropy", layers, "entropy", "nats", title="Entropy of attention"),
    ]
    if any(float(layer.prefix.max()) for layer in layers):
        title = "Attention that goes to class and register tokens"
        plates.append(figures.by_depth("prefix-share", layers, "prefix", "share", title=title, most=1.02))
    rows = (
        (
            layer.layer,
            head + 1,
            float(layer.distance[:, head].mean()),
            float(layer.distance[:, head].std(correction=0)),
            *(float(getattr(layer, name)[:, head].mean()) for name in ("entropy", "view", "prefix")),
        )
        for layer in layers
        for head in range(layer.distance.shape[1])
    )
    return Finding(
        f"Each dot is a head, its mean over {len(subject.images)} images of {height} × {width} pixels. In layer "
        f"{layers[0].layer} the heads look {float(first.min()):.0f} to {float(first.max()):.0f} pixels far, in layer "
        f"{layers[-1].layer} {float(last.min()):.0f} to {float(last.max()):.0f}. Attention to other tokens than patches "
        "counts as no distance, as in the paper's figure 11.",
        plates,
        table_of(rows, HEADS),
    )


def _answers(subject: Subject) -> list[str]:
    """The class that the model names for each shown image; empty without a head."""
    if not subject.model.config.classes:
        return [""] * len(subject.few)
    with answering(subject.model, place(subject.model), torch.float32):
        sure, best = subject.model(prepare_images(subject.model, subject.few)).softmax(1).max(1)
    names = class_names(subject.model)
    said = [f"answer: {names[k] if names else k} {p:.0%}" for p, k in zip(sure.tolist(), best.tolist(), strict=True)]
    truths = [*subject.truths[: len(said)], *[""] * (len(said) - len(subject.truths))]
    return [f"{one}, is {truth}" if truth else one for one, truth in zip(said, truths, strict=True)]
