"""The first help of `vitrail train` and `vitrail plan`: the options that people change; `--help-all` lists the rest."""

_OPTIONS = """\
images and model
  --recipe NAME           how to train; by default chosen by the images (`vitrail recipes` lists them)
  --model NAME            a model such as vit-s/16; by default the recipe's (`vitrail models` lists them)
  --weights FILE          fine-tune these weights: a run, a bundle, a published file, hf:owner/name
  --size H W              height and width in pixels; one number is a square
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

_TRAIN = """

run
  --out FOLDER            the run folder; by default runs/NAME-1, -2, …
  --seeds N               train N times; prints mean and standard deviation
  --resume FOLDER         go on with a run that was stopped
  --quiet, --json         no progress; the result as JSON"""

SHORT_HELP = {
    "train": f"""\
usage: vitrail train DATA [options]

Trains a Vision Transformer on labelled images. DATA is a folder with a folder of images for each class, a CSV, IDX files,
shards, Parquet, or a named set. A recipe is chosen by the images, and every option changes one of its values.

{_OPTIONS}{_TRAIN}

examples:
  vitrail train digits                                   handwritten digits, in a minute
  vitrail train ./photos                                 your own images, one folder for each class
  vitrail train ./photos --weights vit-b16.npz           fine-tune published weights
  vitrail train ./photos --model vit-ti/16 --epochs 30 --lr 5e-4 --augment.flip
  vitrail train --resume runs/photos-1                   go on where it stopped, to the same bits

vitrail train DATA --help-all lists every option, with the values of the recipe for these images.""",
    "plan": f"""\
usage: vitrail plan DATA [options]

The cost of a training, before it starts: steps, batch, FLOPs, and by a short probe time and memory.
It takes the options of `vitrail train`.

{_OPTIONS}
  --json                  as JSON

examples:
  vitrail plan ./photos
  vitrail plan ./photos --model vit-b/16 --batch 256
  vitrail plan digits --json

vitrail plan DATA --help-all lists every option.""",
}
