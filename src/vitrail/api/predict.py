"""`vitrail.predict`: labels for images."""

from collections.abc import Sequence
from pathlib import Path

from vitrail.api.images import Images, open_any
from vitrail.api.models import Classifier, Size, open_classifier
from vitrail.arguments import EngineName, Precision, Say, Views
from vitrail.images.sources import open_all
from vitrail.prediction import predict as prediction
from vitrail.prediction.bulk import predictions
from vitrail.prediction.engine import ready_engine
from vitrail.prediction.parts import describe
from vitrail.prediction.predict import Least, Prediction
from vitrail.prediction.views import average_views
from vitrail.processes.world import World


def predict(
    model: Classifier, images: Images, *, top: int = 5, size: Size = None, views: Views = "one", batch: int = 64,
    calibrated: bool = False, least: Least = 0.0, engine: EngineName = "auto", device: str = "auto",
    precision: Precision = "auto", skip_unreadable: bool = False, follow_links: bool = False, quiet: bool = False,
    say: Say = lambda text: None,
) -> list[Prediction]:  # fmt: skip
    """The `top` likeliest classes of every image, in order.

        vitrail.predict("runs/photos-1", "new.jpg")[0].labels

    A model trained on several labels an image gives all labels above its threshold, whatever `top`. `images` are paths,
    folders (searched at any depth), a named set, uint8 arrays, tensors or PIL images. An unreadable image raises
    DecodeError; with `skip_unreadable` its Prediction has an `error` and no labels. `say` hears which files of a folder
    were skipped.

    Args:
        model: A run folder, a bundle, a weights file or an exported model.
        images: Image files and folders.
        top: How many answers for each image.
        calibrated: Divide by the temperature that validation images chose in training, so that probabilities can be believed.
        least: Give no class below this probability: the image is none of these. `auto` takes the one that held-out images
            chose in training, and the temperature.
        skip_unreadable: Go on past files that are no images, and list them at the end.
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
    model: Classifier, images: str | Path | Sequence[str | Path], out: str | Path, *, part: int = 1024, top: int = 5,
    size: Size = None, views: Views = "one", batch: int = 64, calibrated: bool = False, least: Least = 0.0,
    engine: EngineName = "auto", device: str = "auto", precision: Precision = "auto", follow_links: bool = False,
    say: Say = lambda text: None,
) -> str:  # fmt: skip
    """The same answers into a Parquet file or a folder of them, `part` images at a time; gives a sentence on the result.

    For any number of images: a job that was stopped goes on, and the processes of torchrun share the work.
    """
    opened = open_classifier(model, size, engine=engine, device=device, precision=precision)
    ready = ready_engine(average_views(opened, views), device=device, precision=precision)
    sources = open_all([images] if isinstance(images, str | Path) else images, follow_links=follow_links)
    for note in dict.fromkeys(note for source in sources.values() for note in source.notes):
        say(note)
    job = predictions(ready, sources, top_k=top, batch=batch, part=part, calibrated=calibrated, least=least)
    return describe(job.write(Path(out), World.from_environment()), Path(out))
