"""The first help of commands that take every option of a training: those that people change; `--help-all` lists the rest."""

import ast
from pathlib import Path

_OPTIONS = """\
images and model
  --recipe NAME           how to train; by default chosen by the images (`vitrail recipes` lists them)
  --model NAME            a model such as vit-s/16; by default the recipe's (`vitrail models` lists them)
  --weights FILE          fine-tune these weights: a run, a bundle, a published file, hf:owner/name
  --size H W              height and width in pixels; one number is a square
  --classes leaf          the folder that an image lies in is its class, at any depth
  --holdout SHARE         share held out where the data has no split of its own (0.2); 0: train on all, without a score
  --download              fetch a named set where it is not on this machine

training
  --epochs N              passes over the images
  --patience N            stop when so many epochs brought no better score
  --batch N               images a step
  --lr RATE               peak learning rate
  --optim.weight-decay D  weight decay
  --augment.flip          mirror images; --augment.no-flip does not
  --seed N                of everything random (0)

machine
  --device NAME           auto, cpu, cuda or mps
  --precision NAME        auto, fp32 or bf16
  --threads N             CPU threads
  --workers N             loader processes; -1 chooses"""


SHORT_HELP = {
    "train": """
run
  --out FOLDER            the run folder; by default runs/NAME-1, -2, …
  --seeds N               train N times; prints mean and standard deviation
  --folds K               train K times, each time with another part held out; every image is scored once
  --resume FOLDER         go on with a run that was stopped
  --quiet, --json         no progress; the result as JSON
""",
    "plan": "  --json                  as JSON\n",
    "data show": """
sheet
  --out FILE              .png, or .html; by default runs/seen.png
  --rows N                how many images (6)
  --passes N              in how many epochs each is shown (6)
""",
}
"""Commands that have one, and their own options."""


def short_help(command: str) -> str:
    """About and examples are the docstring of the options, read as text: to import them needs torch."""
    module = ast.parse(Path(__file__).with_name(command.replace(" ", "_") + ".py").read_text("utf-8"))
    options = next(one for one in module.body if isinstance(one, ast.ClassDef))
    about, examples = (ast.get_docstring(options) or "").split("\n\nexamples:\n")
    return (
        f"usage: vitrail {command} DATA [options]\n\n{about}\n\n{_OPTIONS}\n{SHORT_HELP[command]}\nexamples:\n{examples}\n\n"
        f"vitrail {command} DATA --help-all lists every option, with the values of the recipe for these images."
    )
