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

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vitrail.cli.arguments import call, check_writable, parse, say
from vitrail.cli.options import Show, options_of
from vitrail.reports.tables import Column, Table, show

if TYPE_CHECKING:
    from vitrail.exporting.onnx_file import Written


def main(words: Sequence[str]) -> int:
    asked = parse(options_of("export", __doc__, Show), words, command="export")
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
