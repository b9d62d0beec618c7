"""`vitrail.predict`: labels for images."""

from collections.abc import Callable, Sequence
from pathlib import Path

from vitrail.api.images import Images, open_any
from vitrail.api.models import Classifier, Size, open_classifier
from vitrail.images.sources import open_all
from vitrail.prediction import predict as prediction
from vitrail.prediction.bulk import predictions
from vitrail.prediction.engine import ready_engine
from vitrail.prediction.engines import EngineName
from vitrail.prediction.parts import describe
from vitrail.prediction.predict import Least, Prediction
from vitrail.prediction.views import Views, average_views
from vitrail.processes.world import World


def predict(
    model: Classifier, images: Images, *, top: int = 5, size: Size = None, views: Views = "one", batch: int = 64,
    calibrated: bool = False, least: Least = 0.0, engine: EngineName = "auto", device: str = "auto",
    precision: str = "auto", skip_unreadable: bool = False, follow_links: bool = False, quiet: bool = False,
    say: Callable[[str], object] = lambda text: None,
) -> list[Prediction]:  # fmt: skip
    """The `top` likeliest classes of every image, in order.

        vitrail.predict("runs/photos-1", "new.jpg")[0].labels

    A model trained on several labels an image gives all labels above its threshold, whatever `top`. `calibrated` divides
    logits by the temperature of the record. An image with no class of the probability `least` has no labels: it is none
    of these. "auto" takes the probability that held-out images chose in training, and the temperature.
    `model` may be exported too: an ONNX file, a folder of OpenVINO; `engine` says what runs it.
    `images` are paths, folders (searched at any depth), a named set, uint8 arrays, tensors or PIL images. An unreadable
    image raises DecodeError; with `skip_unreadable` its Prediction has an `error` and no labels. Links out of a folder are
    followed with `follow_links`. `say` hears which files of a folder were skipped.
    """
    opened = open_classifier(model, size, engine=engine, device=device, precision=precision)
    classifier = average_views(opened, views)
    sources = open_any(images, follow_links=follow_links)
    for note in dict.fromkeys(note for source in sources for note in source.notes):
        say(note)
    return [
        found
        for source in sources
        for found in prediction.predict(
            classifier, source, top_k=top, batch_size=batch, calibrated=calibrated, least=least, device=device, precision=precision,
            on_error="skip" if skip_unreadable else "stop", quiet=quiet,
        )
    ]  # fmt: skip


def predict_in_parts(
    model: Classifier, images: Sequence[str | Path], out: str | Path, *, part: int = 1024, top: int = 5,
    views: Views = "one", batch: int = 64, calibrated: bool = False, least: Least = 0.0, engine: EngineName = "auto",
    device: str = "auto", precision: str = "auto", follow_links: bool = False, say: Callable[[str], object] = lambda text: None,
) -> str:  # fmt: skip
    """The same answers into a Parquet file or a folder of them, `part` images at a time; gives a sentence on the result.

    For any number of images: a job that was stopped goes on, and the processes of torchrun share the work.
    """
    opened = open_classifier(model, engine=engine, device=device, precision=precision)
    ready = ready_engine(average_views(opened, views), device=device, precision=precision)
    sources = open_all(images, follow_links=follow_links)
    for note in dict.fromkeys(note for source in sources.values() for note in source.notes):
        say(note)
    job = predictions(ready, sources, top_k=top, batch=batch, part=part, calibrated=calibrated, least=least)
    return describe(job.write(Path(out), World.from_environment()), Path(out))
