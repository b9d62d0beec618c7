"""The command line: a lazy table of commands, and one place where errors become a paragraph and an exit code.

Nothing here imports torch; a command's module is imported when its name was typed. Exit codes:

    0 done · 2 words that mean nothing · 65 images or weights · 70 a bug, NaN · 71 memory · 74 a disk · 78 options
    130 Ctrl-C · 141 the reader of our output went away · 143 SIGTERM or SIGUSR1
"""

import importlib
import os
import re
import shlex
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType

from vitrail.api.words import hints_at_peers
from vitrail.cli.short_help import SHORT_HELP, short_help
from vitrail.errors import ConfigError, VitrailError, recognise_error, suggest
from vitrail.processes.signals import Stopped, StopSignals

COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("vitrail.cli.train", "train on your images: a recipe is chosen, everything can be overridden"),
    "plan": ("vitrail.cli.plan", "what a training would cost: steps, FLOPs, time, memory"),
    "evaluate": ("vitrail.cli.evaluate", "accuracy with its interval, per class, calibration"),
    "predict": ("vitrail.cli.predict", "label image files"),
    "inspect": ("vitrail.cli.inspect", "look inside: attention, distances, positions, filters, in one report"),
    "name": ("vitrail.cli.name", "a classifier from words: the names of its classes, no training"),
    "look": ("vitrail.cli.look", "a heat map over your photo: what the answer rests on"),
    "probe": ("vitrail.cli.probe", "few-shot, nearest neighbours and linear probes on frozen features"),
    "embed": ("vitrail.cli.embed", "a model's features of images, in a file"),
    "similar": ("vitrail.cli.similar", "most similar images and near-duplicates, from such a file"),
    "compare": ("vitrail.cli.compare", "two models on the same images: is the difference more than luck?"),
    "suite": ("vitrail.cli.suite", "many models on many data sets: your own transfer suite, or VTAB-1k"),
    "serve": ("vitrail.cli.serve", "answer over HTTP, and show a page where you see the model look"),
    "robustness": ("vitrail.cli.robustness", "accuracy on corrupted images, as ImageNet-C"),
    "tune": ("vitrail.cli.tune", "speed against accuracy here: number format, runtime, merged tokens"),
    "export": ("vitrail.cli.export", "a model for other programs: ONNX, with a certificate"),
    "trace": ("vitrail.cli.trace", "one image's way through the model, in the paper's words"),
    "study": ("vitrail.cli.study", "compare ways of pre-training: same FLOPs, same readouts, one report"),
    "run": (
        "vitrail.cli.run",
        "`run verify` proves which samples a run was trained on; `run export` takes its weights out",
    ),
    "data": ("vitrail.cli.data", "check your images, pack them into shards, show what training will see of them"),
    "models": ("vitrail.cli.models", "the model zoo: sizes, parameters, FLOPs"),
    "weights": ("vitrail.cli.weights", "weights of any origin: show, convert, check"),
    "push": ("vitrail.cli.push", "upload weights to the Hugging Face hub, with a model card"),
    "recipes": ("vitrail.cli.recipes", "ways to train, with the numbers they should reach"),
}

EXAMPLES = """\
vitrail train digits              a small ViT on real handwritten digits, in a minute
vitrail train ./photos            your own images, one folder per class
vitrail predict runs/photos-1 new.jpg
vitrail COMMAND --help            every option, with examples"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    from vitrail.reports.terminal import clean_streams

    with StopSignals(raising=True) as stop, clean_streams():
        try:
            code = dispatch(words)
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains once more at its end
            return 141
        except (Stopped, KeyboardInterrupt, Exception) as error:
            if debug:
                sys.excepthook = show_traceback
                raise
            return explain(error, stop.exit_code)


def dispatch(words: list[str]) -> int:
    """Help, version, or the command that the first word names."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"vitrail {version('vitrail')}")
        return 0
    short = [name for name in (words[0], " ".join(words[:2])) if name in SHORT_HELP]
    if short and {"-h", "--help"} & set(words):
        print(short_help(short[0]))
        return 0
    if short and (hints := hints_at_peers(words)):  # before torch is imported
        print("\n".join(hints), file=sys.stderr)
        return 2
    command = main_of(words[0])
    try:
        return command(["--help" if word == "--help-all" else word for word in words[1:]])
    except SystemExit as exit_:  # tyro printed its help (0) or what it did not understand (2); rich's pipe broke (1)
        return 141 if exit_.code == 1 else int(exit_.code or 0)


def main_of(name: str) -> Callable[[list[str]], int]:
    """The `main` of a command's module."""
    if name not in COMMANDS:
        raise ConfigError(
            f"vitrail has no command {name!r}",
            allowed=", ".join(COMMANDS),
            next_step=suggest(name, COMMANDS) or "see `vitrail --help`",
        )
    settle_threads()
    return importlib.import_module(COMMANDS[name][0]).main


def settle_threads() -> None:
    """Waiting OpenMP threads spin, and starve a busy machine; told before torch is imported, they sleep sooner.

    GNU's threads, which torch's wheels carry, sleep after five thousand rounds. Small models then lose 5 % on a quiet
    machine, where sleeping at once costs 30 % (docs/concepts/speed.md). Other threads sleep at once.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "5000"}


def overview() -> str:
    width = max(map(len, COMMANDS))
    table = "\n".join(f"  {name:<{width}}  {about}" for name, (_, about) in COMMANDS.items())
    return (
        "usage: vitrail COMMAND …\n\nVision Transformers to train, measure, look inside and put to work.\n\n"
        f"commands:\n{table}\n\nexamples:\n{textwrap.indent(EXAMPLES, '  ')}\n\n"
        "--debug shows the traceback of an error · --version"
    )


def explain(error: BaseException, stopped: int = 130) -> int:
    """One paragraph on stderr, and the exit code: `stopped` is that of a signal."""
    if isinstance(error, Stopped | KeyboardInterrupt):
        text, code = "stopped", stopped if isinstance(error, Stopped) else 130
    elif isinstance(error, VitrailError):
        text, code = f"error: {name_options(str(error))}", error.exit_code
    elif known := recognise_error(error, "working", "try a smaller --batch, or smaller images"):
        text, code = f"error: {known}", known.exit_code
    else:
        text, code = f"internal error ({type(error).__name__}: {error}); run again with --debug for the traceback", 70
    print(paragraph(text), file=sys.stderr)
    return code


_PARAMETER = re.compile(r"`([a-z][a-z0-9_.]*)(?:=([^`]*))?`")


def name_options(text: str) -> str:
    """Parameters, which the library writes as `batch=32` or `out`, as options: `--batch 32`, `--out`."""

    def option(found: re.Match[str]) -> str:
        value = found[2] or "True"
        words = shlex.quote(value[1:-1]) if value[0] in "'\"" else re.sub(r"[()\[\],]|True", "", value)
        return f"--{found[1].replace('_', '-')} {words}".rstrip()

    return _PARAMETER.sub(option, text)


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As Python does, but printable."""
    from vitrail.reports.terminal import CleanStream

    CleanStream(sys.stderr).write("".join(traceback.format_exception(kind, error, trace)))


def paragraph(text: str) -> str:
    """Wrapped to the terminal; one line for a log."""
    width = shutil.get_terminal_size().columns if sys.stderr.isatty() else 1_000_000
    return textwrap.fill(" ".join(text.split()), width, break_long_words=False, break_on_hyphens=False)
