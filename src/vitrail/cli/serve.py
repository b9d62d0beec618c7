"""`vitrail serve`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from vitrail.cli.arguments import call, parse
from vitrail.cli.options import EngineName, Precision
from vitrail.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Serve:
    """A model answers over HTTP, and shows a page at / where you see it look.

    Ctrl-C and SIGTERM finish what was asked, then end. SIGHUP takes in weights that changed: they are checked first, and the
    old ones go on where the new ones are bad.

    examples:
      vitrail serve runs/photos-1
      vitrail serve runs/photos-1 runs/photos-2 --port 8080
      vitrail serve runs/photos-1 --watch 5
      vitrail serve runs/photos-1 --host 0.0.0.0 --token-file token.txt
      curl --data-binary @photo.jpg -H 'content-type: image/jpeg' http://127.0.0.1:8000/predict
    """

    models: tyro.conf.Positional[tuple[str, ...]]
    """Run folders, bundles, weights files or exported graphs; NAME=PATH gives one another name."""
    host: str = "127.0.0.1"
    """The address to listen on. Another than this machine's own needs a token."""
    port: int = 8000
    """0 takes any free one, and says which."""
    token_file: Path | None = None
    """A file whose first line every request must show: Authorization: Bearer TOKEN."""
    names: tuple[str, ...] = ()
    """Further names by which clients call this machine, such as that of a proxy."""
    engine: EngineName = "auto"
    """The runtime of an exported graph: onnxruntime or openvino; auto goes by its file."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Precision = "auto"
    batch: int = 0
    """Images computed together; 0 is 1 on a CPU, where a batch is no faster, and 32 elsewhere."""
    queue: int = 64
    """Images that may wait; what comes then is refused at once."""
    watch: float = 0.0
    """Look for changed weights every so many seconds; 0 never does, SIGHUP always."""
    threads: int = 0
    """CPU threads; 0 leaves the choice to torch and OMP_NUM_THREADS."""


def main(words: Sequence[str]) -> int:
    asked = parse(Serve, words, command="serve")

    from vitrail.api.serve import named, serve

    if not asked.models:
        raise ConfigError("no model was named", next_step="try `vitrail serve runs/photos-1`")
    pairs = [one.partition("=") for one in asked.models]
    models = dict((name, path) for name, equals, path in pairs if equals)
    models |= named([name for name, equals, _ in pairs if not equals]) if len(models) < len(pairs) else {}
    if len(models) < len(pairs):
        raise ConfigError("two models have one name", next_step="name them: NAME=PATH")
    call(serve, asked, models=models)
    return 0
