"""The options of a command are the parameters of its function: their names, kinds, defaults and help.

The function is read as text, not imported, for it needs torch and `--help` must not. Parameters before the `*` are named by
position. A parameter's help is its line under `Args:` in the docstring, or the one of SHARED.
"""

import ast
import dataclasses
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import vitrail
from vitrail import arguments
from vitrail.cli.arguments import Switch
from vitrail.reports.tables import Output

SHARED = {
    "batch": "Images through the model at once.",
    "cache": "A folder in which features are kept between commands; a pass that was stopped goes on.",
    "config": "Fields of the model's config as JSON, or a JSON file: what a bare file cannot say.",
    "data": "Labelled images, as for `vitrail train`.",
    "device": "auto, cpu, cuda or mps.",
    "download": "Fetch a named set, or one of the Hugging Face Hub (hf:owner/name), where it is not on this machine.",
    "engine": "The runtime: torch for weights, ONNX Runtime for an ONNX file, OpenVINO for its own folder or for an ONNX file.",
    "file": "A run, a bundle, a published file, a folder with one, or hf:owner/name.",
    "first": "A run folder, a bundle or a weights file.",
    "follow_links": "Follow links that lead out of the folder.",
    "holdout": "Share of the images held out where the data has no split of its own.",
    "html": "Also write a page here.",
    "model": "A run folder, a bundle or a weights file.",
    "pool": "With a layer: the class token, the mean of the patches, or both.",
    "precision": "Number format of the products; auto is bf16 where the machine computes it faster.",
    "quiet": "No progress.",
    "second": "What it is compared with.",
    "size": "Height and width in pixels, in place of the model's own; its positions are resized.",
    "split": "Which part, all of it: what the model was trained on is counted, not left out.",
    "unlabelled": "Take every picture under DATA, whatever folder it is in.",
    "views": "Average the answers over views of each image: flip, five crops, or ten (five and their mirror images).",
    "workers": "Loader processes; -1 chooses.",
}
"""The help of parameters that mean the same everywhere."""

KINDS: dict[str, Any] = {
    **vars(arguments), "Literal": Literal, "Path": Path, "Sequence": Sequence, "Collection": Sequence, "bool": Switch,
    "Model": str, "Classifier": str, "Models": tuple[str, ...], "Images": tuple[str, ...], "Told": str | None,
    "Size": tuple[int, int] | None, "Least": float | Literal["auto"],
}  # fmt: skip
"""Kinds of parameters, as words of the command line give them."""
SPELLINGS = {
    "str | Path | Splits | Source": "str", "str | Path | Splits": "str", "str | Path": "Path",
    "int | Sequence[int]": "Sequence[int]",
}  # fmt: skip
"""A path, an object or a list may be given to the function; here it is typed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Show:
    """How the answer is printed."""

    format: Output = "table"
    """table, json or csv; --json and --csv say the same."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Threads:
    """How many threads compute."""

    threads: int = 0
    """CPU threads; 0 leaves the choice to torch and OMP_NUM_THREADS."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """A page beside the answer."""

    html: Path | None = None
    """Also write a page here."""


Names = Annotated[
    tuple[str, ...],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="NAME,NAME",
        instance_from_str=lambda words: tuple(name.strip() for name in words[0].split(",") if name.strip()),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda names: [",".join(names)],
    ),
]
"""The kind of a list that is typed as one word, with commas between."""


def options_of(
    function: str, about: str | None, *more: type, positional: Collection[str] | None = None, **kinds: Any
) -> type[Any]:
    """A dataclass of the fields of `more` and the parameters of `vitrail.function`; `about` is the help of the command.

    `positional` are the parameters named by position, if not those before the `*`. `kinds` replaces the kinds of some;
    None leaves a parameter out.
    """
    file = Path(vitrail.__file__).parent / (vitrail._HOMES[function].replace(".", "/") + ".py")
    module = ast.parse(file.read_text("utf-8"))
    node = next(one for one in module.body if isinstance(one, ast.FunctionDef) and one.name == function)
    by_position = [one.arg for one in node.args.args] if positional is None else positional
    helps = SHARED | read_helps(ast.get_docstring(node) or "")
    left_out = {"say", *(part.name for one in more for part in dataclasses.fields(one))}
    left_out |= {name for name, kind in kinds.items() if kind is None}
    options: list[Any] = []
    for name, annotation, default in read_parameters(module, node.args):
        if name not in left_out:
            kind = kinds.get(name) or eval(annotation, KINDS)
            kind = tyro.conf.Positional[kind] if name in by_position else kind
            told = tyro.conf.arg(help=helps.get(name), metavar="RUN" if name == "model" else None)
            options.append((name, Annotated[kind, told], *([ast.literal_eval(default)] if default else [])))
    return dataclasses.make_dataclass(
        "Options", options, bases=more, namespace={"__doc__": about}, frozen=True, kw_only=True
    )


def read_parameters(module: ast.Module, arguments: ast.arguments) -> Iterator[tuple[str, str, ast.expr | None]]:
    """Name, annotation and default; constants of the module stand for their values."""
    named = {ast.unparse(one.targets[0]): one.value for one in module.body if isinstance(one, ast.Assign)}
    required = [None] * (len(arguments.args) - len(arguments.defaults))
    defaults = [*required, *arguments.defaults, *arguments.kw_defaults]
    for argument, default in zip(arguments.args + arguments.kwonlyargs, defaults, strict=True):
        text = ast.unparse(argument.annotation or ast.Constant(None))
        if text not in KINDS and text in named:
            text = ast.unparse(named[text])
        for theirs, ours in SPELLINGS.items():
            text = text.replace(theirs, ours)
        yield argument.arg, text, named.get(ast.unparse(default), default) if default else None


def read_helps(docstring: str) -> dict[str, str]:
    """The lines `name: text` under `Args:`."""
    listed = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", docstring.partition("\nArgs:\n")[2], re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in listed}
