"""The model card of weights: README.md as the Hugging Face hub shows it, made of the record alone."""

from collections.abc import Iterator

from vitrail import config as configs
from vitrail.weights.record import Record

LICENCES = {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0", "gpl-3.0"}
"""The hub's own words for licences that occur here; any other is `other`."""
MOST_CLASSES = 50


def write_card(record: Record, name: str) -> str:
    """Markdown with the hub's metadata: licence, task, scores, preprocessing, classes, how to load `hf:name`."""
    from huggingface_hub import ModelCardData

    licence = record.licence.split(" ")[0].lower()
    about = ModelCardData(
        license=licence if licence in LICENCES else "other" if licence else None,
        license_name=record.licence if licence and licence not in LICENCES else None,
        library_name="vitrail",
        pipeline_tag="image-classification" if record.config.classes else "image-feature-extraction",
        tags=["vitrail", record.config.family],
    )
    return f"---\n{about.to_yaml()}\n---\n\n" + "\n".join(_lines(record, name)) + "\n"


def _lines(record: Record, name: str) -> Iterator[str]:
    yield f"# {name.partition('/')[2]}"
    yield ""
    yield f"An image model of the family `{record.config.family}`, stored by Vitrail (`pip install vitrail`)."
    yield f"Source: {record.source or 'unknown'}. Licence: {record.licence or 'not stated'}."
    yield from ("", "## How to load", "", "```python", "import vitrail", "")
    yield f'model = vitrail.load("hf:{name}")   # model(images) -> logits; model.record says the rest'
    yield from ("```", "", "```sh", f"vitrail predict hf:{name} IMAGE", "```", "", "## Scores", "")
    if record.scores:
        yield from ("| score | value |", "|---|---|")
        yield from (f"| {what} | {value:.4g} |" for what, value in record.scores.items())
        yield ""
        yield f"The training measured them. `vitrail evaluate hf:{name} DATA` measures accuracy on your images."
    else:
        yield "The record has no scores."
    yield from ("", "## Preprocessing", "", "`vitrail` prepares images so; other code must do the same.", "")
    yield from ("| setting | value |", "|---|---|")
    yield from (f"| {what} | {value} |" for what, value in configs.to_dict(record.preprocess).items())
    if record.training:
        yield from ("", "## Training", "", *(f"- {what}: {value}" for what, value in record.training.items()))
    yield from ("", "## Classes", "")
    listed = record.classes[:MOST_CLASSES]
    more = len(record.classes) - len(listed)
    names = ", ".join(listed) + (f" and {more:,} more" if more else "")
    yield names or f"{record.config.classes} outputs without names."
    if record.notes:
        yield from ("", "## Notes", "", *(f"- {note}" for note in record.notes))
