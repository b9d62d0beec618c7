"""The models that answer, and how one takes another's place while requests come in."""

import dataclasses
import json
import logging
import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vitrail.errors import ConfigError, NonFiniteError, WeightsError
from vitrail.images.decode import decode
from vitrail.models.backbone import Backbone
from vitrail.prediction.engine import Engine, TorchEngine, ready_engine
from vitrail.prediction.engines import is_exported, open_engine
from vitrail.prediction.predict import Decision, decide, probabilities_of
from vitrail.serving.problem import Problem
from vitrail.serving.samples import SAMPLES
from vitrail.weights.bundle import RECORD, TENSORS, find_bundle, load

GOLDEN = "golden.json"
"""A file in a bundle: the probabilities that its model gives to the sample pictures."""
TOLERANCE = 0.02
"""The most by which a probability may differ from the golden one: bf16 and other machines round otherwise."""
Stamp = tuple[tuple[int, int, int], ...]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

log = logging.getLogger("vitrail")


@dataclass(frozen=True, eq=False)
class Served:
    """One model as it answers."""

    name: str
    path: str
    engine: Engine
    decision: Decision
    stamp: Stamp = ()
    """Tells files that changed."""

    @cached_property
    def sha256(self) -> str:
        """The sha256 of the file of tensors or of the exported graph; of the tensors where no record says it."""
        recorded = getattr(self.record, "sha256", "") if self.torch else ""
        return recorded or self.engine.digest

    @property
    def record(self) -> Any:
        return getattr(getattr(self.engine, "model", self.engine), "record", None)

    @property
    def version(self) -> str:
        """The name of these weights in the Open Inference Protocol."""
        return self.sha256[:12]

    @property
    def torch(self) -> TorchEngine | None:
        """The engine, where it runs a model of this package."""
        return self.engine if isinstance(self.engine, TorchEngine) else None

    @property
    def module(self) -> Backbone | None:
        return getattr(self.torch, "model", None)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.engine.classes or tuple(f"class {k}" for k in range(self.outputs))

    def answer(self, labels: Sequence[str], numbers: Sequence[float]) -> dict[str, Any]:
        """The answer to one image, as it is sent."""
        return {"value": numbers[0]} if self.decision.numeric else {"labels": labels, "probabilities": numbers}

    @cached_property
    def outputs(self) -> int:
        """K."""
        height, width = self.engine.preprocess.size
        blank = torch.zeros(1, self.engine.preprocess.channels, height, width, dtype=torch.uint8)
        return self.engine.logits(blank).shape[1]

    @cached_property
    def about(self) -> dict[str, Any]:
        """The facts of the model that stand in every answer."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "classes": self.outputs,
            "engine": self.engine.name,
            "precision": self.engine.precision,
            "preprocess": dataclasses.asdict(self.engine.preprocess),
        }


def open_served(name: str, path: str, *, engine: str = "auto", **how: Any) -> Served:
    """A model that has passed: its sha256 is right, its numbers are finite, its answers are those of `golden.json`.

    Raises WeightsError, ConfigError, DoesNotApply.
    """
    stamp = stamp_of(path)
    if not is_exported(path) and engine not in ("auto", "torch"):
        allowed = "auto or torch for weights; onnxruntime and openvino for exported graphs"
        raise ConfigError(f"engine {engine!r} for {path}", allowed=allowed, next_step="`vitrail export` makes a graph")
    model = open_engine(path, engine=engine, **how) if is_exported(path) else load(path)
    served = serve_model(name, model, path=path, stamp=stamp, **how)
    check_answers(served)
    return served


def serve_model(name: str, model: nn.Module | Engine, *, path: str = "", stamp: Stamp = (), **how: Any) -> Served:
    """A model in memory as it is served; `how` is what `TorchEngine.of` takes."""
    engine = ready_engine(model, **how)
    return Served(name, path, engine, Decision.of(engine, 5), stamp)


def sample_answers(served: Served) -> dict[str, list[float]]:
    """The probabilities of all classes for the sample pictures, or the number. Raises NonFiniteError."""
    found = {}
    preprocess = served.engine.preprocess
    for name, content in SAMPLES.items():
        image = decode(content)
        if preprocess.channels not in (1, 3):  # the colours again and again
            image = image[..., np.arange(preprocess.channels) % image.shape[2]]
        logits = served.engine.logits(preprocess.resize_image(image)[None])
        decide(logits, served.engine.classes, served.decision)  # raises for answers that are not finite
        numeric = served.decision.numeric
        found[name] = (logits if numeric else probabilities_of(logits, served.decision))[0].tolist()
    return found


def check_answers(served: Served) -> None:
    """Raises WeightsError where the model's answers to the sample pictures are not finite or not the golden ones."""
    try:
        found = sample_answers(served)
    except NonFiniteError:
        raise WeightsError(f"the answers of {served.path or served.name} are not finite") from None
    _ = served.about  # computed here, not at the first request
    folder = find_bundle(Path(served.path)) if served.path else None
    if folder is None or not (folder / GOLDEN).is_file():
        return
    try:
        far = distance(found, json.loads((folder / GOLDEN).read_text("utf-8")))
    except (ValueError, TypeError, AttributeError):
        raise WeightsError(f"{folder / GOLDEN} holds no answers", next_step="write or remove it") from None
    if not far <= TOLERANCE:
        raise WeightsError(
            f"{served.path} does not give its golden answers: one differs by {far:.3f}",
            allowed=f"{TOLERANCE}",
            next_step=f"these are other weights; remove {GOLDEN} if they are right",
        )


def distance(found: Mapping[str, Sequence[float]], golden: Mapping[str, Sequence[float]]) -> float:
    """The largest difference, of numbers above 1 as a share of them."""
    pairs = [(np.array(found[name]), np.array(golden[name], float)) for name in found.keys() & golden.keys()]
    if any(ours.shape != theirs.shape for ours, theirs in pairs):
        return math.inf
    return max((np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))).max() for ours, theirs in pairs)


def write_golden(path: str | Path) -> Path:
    """Writes `golden.json` beside the weights of a run or bundle: a server then refuses other weights in their place."""
    from vitrail.storage import write_whole

    folder = find_bundle(Path(path))
    if folder is None:
        raise ConfigError(f"{path} is no run and no bundle")
    served = serve_model("model", load(folder), precision="fp32")
    write_whole(folder / GOLDEN, json.dumps(sample_answers(served)))
    return folder / GOLDEN


def stamp_of(path: str) -> Stamp:
    """A value that changes with the files of a model; empty for a name of the hub."""
    folder = find_bundle(Path(path))
    place = Path(path)
    files = [folder / TENSORS, folder / RECORD] if folder else sorted(place.iterdir()) if place.is_dir() else [place]
    found = [file.stat() for file in files if file.is_file()]
    return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)


def name_of(path: str) -> str:
    """The name under which a model is served: that of its run folder or file."""
    place = Path(path)
    if place.name in ("best", "last") and place.parent.name:
        return f"{place.parent.name}-{place.name}"
    return re.sub(r"[^A-Za-z0-9._-]", "-", place.name if place.is_dir() else place.stem) or "model"


class Models:
    """The served models by name. An answer belongs to the model that was there when its request came."""

    def __init__(self, paths: Mapping[str, str], open_: Callable[[str, str], Served]) -> None:
        for name in paths:
            if not NAME.fullmatch(name):
                raise ConfigError(
                    f"a model named {name!r}",
                    allowed="a letter or digit, then up to 63 letters, digits, dots, dashes, underscores",
                    next_step="give it another name: NAME=PATH",
                )
        self._open, self._lock = open_, threading.Lock()
        self.swapped = self.refused = 0
        self._refused_stamps: dict[str, Stamp] = {}
        self.by_name = {name: open_(name, path) for name, path in paths.items()}

    def find(self, name: str | None) -> Served | None:
        """The model of this name, or the first for None."""
        return next(iter(self.by_name.values())) if not name else self.by_name.get(name)

    def reload(self, *, changed_only: bool = False) -> None:
        """Puts newer weights in the place of older ones. Weights that fail a check change nothing; the old ones go on.

        Requests that were admitted are answered by the old model, which is freed after the last of them.
        """
        with self._lock:
            for name, old in list(self.by_name.items()):
                if old.path:
                    self._reload(name, old, changed_only)

    def _reload(self, name: str, old: Served, changed_only: bool) -> None:
        try:
            stamp = stamp_of(old.path)
            if changed_only and (not stamp or stamp in (old.stamp, self._refused_stamps.get(name))):
                return
            self._refused_stamps[name] = stamp
            new = self._open(name, old.path)
            if (new.sha256, new.record) != (old.sha256, old.record):
                self.by_name[name] = new
                self.swapped += 1
                # of a program's logs, who starts it sees warnings alone
                log.warning("%s: new weights %s answer from now on", name, new.version)
            else:
                self.by_name[name] = dataclasses.replace(old, stamp=new.stamp)
        except Exception as error:  # whatever is wrong with new weights, the old ones go on
            self.refused += 1
            log.warning("%s: the new weights are refused, the old ones go on: %s", name, error)


def find_model(models: Models, name: str | None, version: str | None = None) -> Served:
    """The model that a client names, else the first. Raises Problem 404."""
    found = models.find(name)
    if found is None or version not in (None, found.version):
        raise Problem(404, "no-model", "there is no model of that name and version")
    return found
