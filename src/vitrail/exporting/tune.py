"""Speed against accuracy on this machine: number format, runtime and merged tokens, on the same images, and what to choose.

Speed is that of the model alone, in batches, on the threads torch has. The candidates take turns, and the best turn of
each counts: neighbours on a busy machine only slow down. Accuracy is measured on every second image: the others choose
the scales of int8.
"""

import importlib.util
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from vitrail import hardware
from vitrail.exporting.graph import to_onnx
from vitrail.exporting.onnx_file import Wanted, blank
from vitrail.exporting.quantise import LEAST, quantise
from vitrail.exporting.subject import Say, Subject, measure_drop, require_images, score, with_merging
from vitrail.prediction.artefact import Accuracy, Artefact, Exported, seal_onnx
from vitrail.prediction.engine import Engine, TorchEngine
from vitrail.prediction.onnx_engine import open_onnx
from vitrail.prediction.openvino_engine import OpenVinoEngine, compile_graph, floats_of, openvino
from vitrail.storage import storage_errors

SHARES = (0.25, 0.5, 0.8)
"""Default shares of the patches that are merged by the last block: r = 4, 8 and 13 of a ViT-B/16 at 224 pixels."""
BATCH, TURNS, SECONDS = 8, 5, 20.0
"""Images at once; the least turns of each candidate, and the least time of all turns: small models take many."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to run a model."""

    engine: Engine
    merge: int
    command: str
    """The command that makes or uses it, with RUN and DATA in the places of the model and the images."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Speed and accuracy of one way to run a model."""

    engine: str
    precision: str
    merge: int
    speed: float
    """Images a second."""
    times: float
    """That over torch's in float32."""
    accuracy: Accuracy
    command: str

    @property
    def verdict(self) -> str:
        """Whether the loss of accuracy is within the bound."""
        if self.accuracy.drop > self.accuracy.within:
            return "too much"
        return "within" if self.accuracy.shown else "not shown"


def tune(subject: Subject, *, within: float, merges: Sequence[int] | None, most: int, say: Say) -> list[Trial]:
    """All trials, the slowest first. Raises ConfigError without images, StorageError where nothing can be written for a while."""
    source = require_images(subject, "tuning", least=2)
    part = Wanted(int8=True).part(source).thin(most)
    before = score(subject.original, part)
    with storage_errors(tempfile.gettempdir()), tempfile.TemporaryDirectory() as aside:
        candidates = []
        for candidate in propose(subject, choose_merges(subject) if merges is None else merges, Path(aside)):
            say(f"measuring {candidate.engine.name}, {candidate.engine.precision}, {candidate.merge} merged")
            candidates.append((candidate, measure_drop(before, candidate.engine, part, subject.data, within=within)))
        speeds = race([one.engine for one, _ in candidates], images_for_speed(subject))
    trials = [
        Trial(
            engine=one.engine.name.removesuffix(" on cpu"),
            precision=one.engine.precision,
            merge=one.merge,
            speed=speed,
            times=speed / speeds[0],
            accuracy=accuracy,
            command=one.command,
        )
        for (one, accuracy), speed in zip(candidates, speeds, strict=True)
    ]
    return sorted(trials, key=lambda trial: trial.speed)


def choose_merges(subject: Subject) -> tuple[int, ...]:
    """0, and three more where the family has tokens that merge."""
    config = subject.model.config
    extras, trunk = getattr(config, "extras", None), subject.model.trunk.config
    if extras is None:
        return (0,)
    rows, columns = config.grid_at(subject.record.preprocess.size)
    each = rows * columns / trunk.depth
    return (0, *sorted({max(1, round(share * each)) for share in SHARES}))


def propose(subject: Subject, merges: Sequence[int], aside: Path) -> Iterator[Candidate]:
    """The candidates, torch in float32 without merging first."""
    short = hardware.precision("auto", torch.device("cpu")) != torch.float32
    for merge in sorted({0, *merges}):
        merged = with_merging(subject, merge)
        words = f" --merge {merge}" if merge else ""
        for precision in ("fp32", "bf16") if short else ("fp32",):
            engine = TorchEngine.of(merged.exported, device="cpu", precision=precision)
            command = f"vitrail predict RUN --precision {precision}"
            yield Candidate(engine, merge, merged_in_torch(command, merge) if merge else command)
        if all(map(importlib.util.find_spec, ("onnxscript", "onnxruntime"))):
            yield from exported(merged, aside / f"{merge}.onnx", words, short)


def merged_in_torch(command: str, merge: int) -> str:
    """The command for a bundle that merges because its config says so, after the one that writes it."""
    bundle, config = f"merged-{merge}", json.dumps({"extras": {"merge": merge}}, separators=(",", ":"))
    return f"vitrail weights convert RUN {bundle} --config '{config}' && {command.replace('RUN', bundle)}"


def exported(subject: Subject, file: Path, words: str, short: bool) -> Iterator[Candidate]:
    """The same graph in ONNX Runtime, and in OpenVINO in three number formats."""
    graph = to_onnx(subject.exported, subject.record.preprocess, any_size=False)
    facts = Exported(record=subject.record, certificate=blank(), merge=subject.merge)
    file.write_bytes(seal_onnx(graph, facts, None))
    yield Candidate(open_onnx(file, device="cpu"), subject.merge, f"vitrail export RUN DATA --to onnx{words}")
    if importlib.util.find_spec("openvino") is None:
        return
    for precision in ("float32", "bfloat16") if short else ("float32",):
        option = " --precision bf16" if precision == "bfloat16" else ""
        command = f"vitrail export RUN DATA --to openvino{option}{words}"
        yield Candidate(in_openvino(read(file), facts, precision), subject.merge, command)
    if importlib.util.find_spec("nncf") is not None and subject.source and len(subject.source) >= LEAST:
        quantised = quantise(read(file), subject, 0, control=False)
        command = f"vitrail export RUN DATA --to openvino --int8{words}"
        yield Candidate(in_openvino(quantised, facts, "int8"), subject.merge, command)


def read(file: Path) -> Any:
    return openvino().Core().read_model(file)


def in_openvino(graph: Any, facts: Exported, precision: str) -> OpenVinoEngine:
    """A graph in memory as an engine."""
    artefact = Artefact(Path("in memory"), replace(facts, precision=precision), "")
    return OpenVinoEngine(artefact, compile_graph(graph, floats_of(precision)), "openvino on cpu", precision)


def images_for_speed(subject: Subject) -> UInt8[Tensor, "B C H W"]:
    images = subject.pixels(BATCH)
    assert images is not None
    return images[torch.arange(BATCH) % len(images)]


def race(engines: Sequence[Engine], images: UInt8[Tensor, "B C H W"], seconds: float = SECONDS) -> list[float]:
    """Images a second of each engine: the best of turns that go round."""
    for engine in engines:
        engine.logits(images)  # warms up
    best, turns, began = [math.inf] * len(engines), 0, time.perf_counter()
    while turns < TURNS or time.perf_counter() - began < seconds:
        best = [min(least, _seconds(lambda e=e: e.logits(images))) for least, e in zip(best, engines, strict=True)]
        turns += 1
    return [len(images) / least for least in best]


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def choose(trials: Sequence[Trial]) -> tuple[Trial | None, str]:
    """The fastest trial whose loss is shown to be within the bound, and why that one."""
    safe = [trial for trial in trials if trial.verdict == "within"]
    best = max(safe, key=lambda trial: trial.speed, default=None)
    if best is None:
        return None, "these images are too few to show of any faster way that its loss is within the bound"
    low, high = best.accuracy.interval
    why = (
        f"{best.engine}, {best.precision}, {best.merge} merged: {best.times:.1f} × torch in float32, and accuracy falls by "
        f"{best.accuracy.drop:.2f} points (95 %: {low:+.2f} to {high:+.2f}), of {best.accuracy.within:g} allowed"
    )
    faster = [trial for trial in trials if trial.verdict == "not shown" and trial.speed > 1.05 * best.speed]
    if faster:
        next_ = max(faster, key=lambda trial: trial.speed)
        why += f"; more images may show it of {next_.engine}, {next_.precision}, {next_.merge} merged ({next_.times:.1f} ×)"
    return best, why
