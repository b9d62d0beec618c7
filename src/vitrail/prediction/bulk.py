"""One job over many images, by one process or several: read, answered in batches, written part by part."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from vitrail.errors import ConfigError, StorageError
from vitrail.images.arrow import arrow
from vitrail.images.sources import Source
from vitrail.prediction.engine import Engine
from vitrail.prediction.parts import Done, Job, Part, Parts, check_file
from vitrail.prediction.predict import Decision, Least, answer_each, best_classes, in_batches
from vitrail.processes.world import World
from vitrail.reports.progress import Progress, progress

ROWS = 1024
"""Images of a part: what a kill can cost each process."""


@dataclass(frozen=True)
class Bulk:
    """The question to every image, and how answers become rows."""

    job: Job
    sources: Mapping[str, Source]
    """Images by the names of their splits."""
    read: Callable[[Any], UInt8[Tensor, "C H W"]]
    """A sample as the model sees it; raises DecodeError."""
    answer: Callable[[UInt8[Tensor, "B C H W"]], Sequence[Any]]
    """One answer an image."""
    table: Callable[[Part, Sequence[str], Sequence[Any], Sequence[str | None]], Any]
    """The rows of a part out of its keys, answers (None where there is none) and errors, as a pyarrow table."""

    def write(self, out: Path, world: World, *, quiet: bool = False) -> Done | None:
        """Makes this process's parts of the folder, or file, `out`; None while other processes still make theirs.

        A file is joined from a folder of parts, `out`.parts, which then goes.
        """
        arrow()
        whole = out.suffix == ".parquet"
        parts = Parts(out.with_name(out.name + ".parts") if whole else out, self.job)
        if whole and out.exists():
            check_file(out, self.job)
            return parts.join(out)
        try:
            with parts.hold(world.rank):
                self._make(parts, world, quiet or world.rank > 0)
            done = parts.finish({split: source.keys for split, source in self.sources.items()})
        except StorageError:
            if not (whole and out.exists()):
                raise
            done = None  # another process joined the parts and took their folder away
        if whole and (done or out.exists()):  # another process may have come first
            return parts.join(out)
        return done

    def _make(self, parts: Parts, world: World, quiet: bool) -> None:
        said: list[str] = []
        todo = parts.mine(world.rank, world.size, said.append)
        title = self.job.kind.capitalize() + (f" (process 1 of {world.size})" if world.size > 1 else "")
        of_all = len(range(world.rank, len(self.job.parts), world.size))
        with progress(sum(map(len, todo)), title, quiet=quiet) as bar:
            for sentence in said:
                bar.note(sentence)
            if len(todo) < of_all:
                bar.note(f"{of_all - len(todo):,} of {of_all:,} parts were there already")
            for split, source in self.sources.items():
                self._make_of(parts, source, [part for part in todo if part.split == split], bar)

    def _make_of(self, parts: Parts, source: Source, todo: Sequence[Part], bar: Progress) -> None:
        """Parts of one split; the next images are read while these are answered, also from one part to the next."""
        size = self.job.batch
        ranges = [range(at, min(at + size, part.stop)) for part in todo for at in range(part.start, part.stop, size)]
        batches = in_batches(self.read, source, ranges)
        done = bar.done
        for part in todo:
            answers: list[Any] = []
            errors: list[str | None] = []
            while len(answers) < len(part):
                for answer, error in answer_each(self.answer, next(batches)):
                    answers.append(answer)
                    errors.append(error)
                bar.update(done + len(answers))
            parts.commit(part, self.table(part, source.keys[part.start : part.stop], answers, errors))
            done += len(part)


def job_of(
    engine: Engine, digest: str, sources: Mapping[str, Source], kind: str, options: str, batch: int, part: int
) -> Job:
    """The job of a model (of this sha256) on these images. Raises ConfigError."""
    if batch < 1 or part < 1:
        raise ConfigError(f"batch = {batch}, part = {part}", allowed="1 or more")
    return Job(
        kind=kind,
        model=digest,
        preprocess=engine.preprocess,
        classes=tuple(engine.classes),
        options=options,
        device=engine.name.removeprefix("torch on "),
        precision=engine.precision,
        batch=batch,
        part=part,
        images=tuple((split, len(source), source.fingerprint) for split, source in sources.items()),
    )


def predictions(
    engine: Engine,
    sources: Mapping[str, Source],
    *,
    top_k: int = 5,
    batch: int = 32,
    part: int = ROWS,
    calibrated: bool = False,
    least: Least = 0.0,
) -> Bulk:
    """The likeliest classes of every image: columns split, key, label, probability (of the first), labels,
    probabilities (of all `top_k`) and error."""

    def table(part: Part, keys: Sequence[str], answers: Sequence[Any], errors: Sequence[str | None]) -> Any:
        pa, _ = arrow()
        text, number = pa.string(), pa.float32()
        images = {"split": pa.array([part.split or None] * len(keys), text), "key": pa.array(list(keys), text)}
        failed = {"error": pa.array(errors, text)}
        if decision.numeric:
            values = [answer and answer[1][0] for answer in answers]
            return pa.table({**images, **failed, "value": pa.array(values, number)})
        labels, probabilities = ([answer and list(answer[column]) for answer in answers] for column in (0, 1))
        found = {
            "label": pa.array([row[0] if row else None for row in labels], text),
            "probability": pa.array([row[0] if row else None for row in probabilities], number),
            "labels": pa.array(labels, pa.list_(text)),
            "probabilities": pa.array(probabilities, pa.list_(number)),
        }
        return pa.table({**images, **found, **failed})

    views = getattr(getattr(engine, "model", engine), "views", "one")
    decision = Decision.of(engine, top_k, calibrated=calibrated, least=least)
    options = f"{decision}" + (f", views {views}" if views != "one" else "")
    job = job_of(engine, engine.digest, sources, "predictions", options, batch, part)
    return Bulk(job, sources, engine.preprocess.read, lambda images: best_classes(engine, images, decision), table)
