"""`vitrail export`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vitrail.cli.arguments import Switch, call, check_writable, parse, say
from vitrail.cli.options import Precision, Show
from vitrail.reports.tables import Column, Table, show

if TYPE_CHECKING:
    from vitrail.exporting.onnx_file import Written


@dataclass(frozen=True, kw_only=True)
class Export(Show):
    """Writes a trained model for other programs: one file, 8-bit pixels in, logits out.

    The graph is asked what the model is asked: random, constant, extreme and your own images, several batches and
    sizes. A graph that answers otherwise is not written. The file carries the comparison as its certificate. Next
    to an ONNX file lies a short reader in Python that needs no Vitrail.

    examples:
      vitrail export runs/photos-1 --to onnx
      vitrail export runs/photos-1 ./photos --to onnx --out model.onnx
      vitrail export runs/photos-1 ./photos --to openvino --int8 --within 0.5
      vitrail export runs/photos-1 --to browser
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """A run folder, a bundle or a weights file."""
    data: tyro.conf.Positional[str | None] = None
    """Labelled images, as for `vitrail evaluate`; by default those of the run."""
    to: Literal["onnx", "openvino", "browser", "triton", "ovms"] = "onnx"
    """onnx: one file. openvino: a folder, the fastest on an x86 CPU. browser: a folder for transformers.js. triton, ovms: a model
    repository for NVIDIA Triton, for OpenVINO Model Server."""
    out: Path | None = None
    """The file or folder; by default it is named after the run."""
    size: tuple[int, int] | None = None
    """Height and width, instead of the model's own; its positions are resized."""
    precision: Precision = "auto"
    """Number format of an OpenVINO folder; auto is fp32."""
    int8: Switch = False
    """An OpenVINO folder in 8-bit whole numbers: half of your images choose its scales, the others measure the loss."""
    merge: int = 0
    """Patches merged in each block (ToMe): fewer tokens, faster, a little less accurate."""
    within: float = 0.5
    """Points of accuracy that --int8 and --merge may cost; more, and nothing is written."""


def main(words: Sequence[str]) -> int:
    asked = parse(Export, words, command="export")
    from vitrail.api.export import export

    check_writable(asked.out)
    written = call(export, asked, say=say)
    if asked.format == "json":
        from vitrail.config import to_dict

        print(json.dumps({"path": str(written.path), **to_dict(written.certificate)}, ensure_ascii=False, indent=1))
    else:
        show(table(written), asked.format)
    tell(written)
    return 0


def table(written: "Written") -> Table:
    """A line for each comparison."""
    columns = Column("compared"), Column("images"), Column("difference", "{:.1e}"), Column("same_answer", "{:.2%}")
    rows = tuple((one.what, one.images, one.difference, one.agreement) for one in written.certificate.checks)
    return Table(columns, rows, f"{written.path} beside the model in torch, float32")


def tell(written: "Written") -> None:
    """The sentences after the table."""
    size = sum(file.stat().st_size for file in ([written.path] if written.path.is_file() else written.path.rglob("*")))
    if written.exported.precision != "float32":
        say(f"the products are {written.exported.precision}")
    say("difference: of a logit, in standard deviations of the logits; of the reader, of a probability")
    if one := written.certificate.accuracy:
        low, high = one.interval
        say(
            f"accuracy on {one.images:,} images of {one.data}: {one.before:.2%} before, {one.after:.2%} after; "
            f"it falls by {one.drop:.2f} points (95 %: {low:+.2f} to {high:+.2f}), of {one.within:g} allowed"
            + ("" if written.certificate.not_shown else ": passed")
        )
    for sentence in written.certificate.not_shown:
        say(f"not shown: {sentence}")
    say(f"written: {written.path} ({size / 1e6:.1f} MB)" + "".join(f", {path}" for path in written.also))
    say(f"next: vitrail predict {written.path} new.jpg")
