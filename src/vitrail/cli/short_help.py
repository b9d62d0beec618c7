"""The first help of commands that take every option of a training: those that people change; `--help-all` lists the rest."""

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


def _help(command: str, about: str, own: str, examples: str) -> str:
    return (
        f"usage: vitrail {command} DATA [options]\n\n{about}\n\n{_OPTIONS}\n{own}\nexamples:\n{examples}\n"
        f"vitrail {command} DATA --help-all lists every option, with the values of the recipe for these images."
    )


SHORT_HELP = {
    "train": _help(
        "train",
        """\
Trains a Vision Transformer on labelled images. DATA is a folder with a folder of images for each class, a CSV, IDX files,
shards, Parquet, or a named set. A recipe is chosen by the images, and every option changes one of its values.""",
        """
run
  --out FOLDER            the run folder; by default runs/NAME-1, -2, …
  --seeds N               train N times; prints mean and standard deviation
  --folds K               train K times, each time with another part held out; every image is scored once
  --resume FOLDER         go on with a run that was stopped
  --quiet, --json         no progress; the result as JSON
""",
        """\
  vitrail train digits                                   handwritten digits, in a minute
  vitrail train ./photos                                 your own images, one folder for each class
  vitrail train ./photos --weights vit-b16.npz           fine-tune published weights
  vitrail train ./photos --model vit-ti/16 --epochs 30 --lr 5e-4 --augment.flip
  vitrail train --resume runs/photos-1                   go on where it stopped, to the same bits
""",
    ),
    "plan": _help(
        "plan",
        """\
The cost of a training, before it starts: steps, batch, FLOPs, and by a short probe time and memory.
It takes the options of `vitrail train`.""",
        "  --json                  as JSON\n",
        """\
  vitrail plan ./photos
  vitrail plan ./photos --model vit-b/16 --batch 256
  vitrail plan digits --json
""",
    ),
    "data show": _help(
        "data show",
        """\
Draws what a training will see: some images as evaluation has them, then as each epoch has them, then mixed.
It takes the options of `vitrail train`.""",
        """
sheet
  --out FILE              .png, or .html; by default runs/seen.png
  --rows N                how many images (6)
  --passes N              in how many epochs each is shown (6)
""",
        """\
  vitrail data show ./photos
  vitrail data show ./photos --recipe deit --out deit.html
  vitrail data show digits --augment.rotate 45 --rows 4 --passes 8
""",
    ),
}
