"""Settings that may change when a run is resumed.

Every key of a Run is in one of three rows. `safe` keys never change the weights. `rounding` keys change
the last bits; they are taken over with a note. All others are the trajectory: another value makes another run. It is refused
without `override`.
"""

from collections.abc import Iterator
from typing import Any, Literal

from torch import nn

from vitrail import config
from vitrail.errors import ConfigError, DataError
from vitrail.models import zoo
from vitrail.models.layers import DropPath
from vitrail.training.run import Run

Kind = Literal["safe", "rounding", "trajectory"]

KEYS: dict[str, Kind] = {
    "recipe": "safe",
    "data": "safe",  # the same images may have moved; their fingerprint is checked apart
    "holdout": "trajectory",
    "follow_links": "safe",  # like data: the fingerprint tells other images
    "fold": "trajectory",
    "skip_unreadable": "safe",  # it leaves out or stops, and never replaces
    "model": "trajectory",
    "weights": "trajectory",  # read once, at the start, and kept as a record of it
    "head": "trajectory",
    "preprocess": "trajectory",
    "augment": "trajectory",
    "check_flips": "safe",  # decided at the start
    "mixing": "trajectory",
    "objective": "trajectory",
    "optim": "trajectory",
    "balance": "trajectory",
    "ema": "trajectory",
    "batch_size": "trajectory",
    "length": "trajectory",
    "patience": "trajectory",  # it decides which images validate
    "evaluate_every": "safe",
    "save_every": "safe",
    "seed": "trajectory",
    "rules": "trajectory",
    "hardware.device": "rounding",
    "hardware.precision": "rounding",
    "hardware.compile": "rounding",
    "hardware.threads": "rounding",
    "hardware.workers": "safe",
    "hardware.micro_batch": "rounding",  # or the trajectory: `kind_in`
    "hardware.parallel": "rounding",
    "hardware.checkpoint_activations": "safe",
    "hardware.deterministic": "rounding",
}
"""By full name, or by the name of the part that holds the key."""


def kind_of(key: str) -> Kind | None:
    """The row of a key such as "optim.lr", or of the part it lies in; None for a key without a row."""
    return KEYS.get(key) or KEYS.get(key.partition(".")[0])


def kind_in(key: str, run: Run) -> Kind | None:
    """`kind_of` in this run: the size of micro-batches is the trajectory where random numbers are drawn for each."""
    return "trajectory" if key == "hardware.micro_batch" and sees_micro_batch(run) else kind_of(key)


def sees_micro_batch(run: Run) -> bool:
    """Whether another size of micro-batches changes more than rounding: by dropout or batch norm in the model, masks or
    negatives of the objective, and by mixing or stochastic depth under the first rules."""
    layers = list(zoo.skeleton(run.model).modules())
    if run.rules < 2 and (run.mixing.on or any(isinstance(layer, DropPath) for layer in layers)):
        return True
    return run.objective.sees_micro_batch or any(map(_draws_or_averages, layers))


def _draws_or_averages(layer: nn.Module) -> bool:
    """Whether a layer draws for a micro-batch, or normalises over it. `drop_prob` is stochastic depth in timm's models."""
    drawn = layer.p if isinstance(layer, nn.Dropout) else getattr(layer, "drop_prob", 0)
    return bool(drawn) or hasattr(layer, "running_mean")


def differences(before: Run, after: Run) -> Iterator[tuple[str, Any, Any]]:
    """(key, old value, new value) of every leaf that differs."""
    old, new = (dict(leaves(config.to_dict(run))) for run in (before, after))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            yield key, old.get(key), new.get(key)


def leaves(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value by its dotted name."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def check_changes(before: Run, after: Run, *, override: bool = False) -> tuple[Run, tuple[str, ...]]:
    """The Run to go on with, and a sentence for each change. Raises ConfigError for a changed trajectory without `override`.

    `before` are the settings in the checkpoint, so that a run.json that was edited or swapped is seen.
    """
    changes = [(*change, kind_in(change[0], after)) for change in differences(before, after)]
    refused = [change for change in changes if change[3] in ("trajectory", None)]
    if refused and not override:
        listed = ", ".join(f"{key} {old!r} → {new!r}" for key, old, new, _ in refused)
        raise ConfigError(
            f"the run was started with other settings: {listed}",
            allowed="on resuming: " + ", ".join(key for key in KEYS if kind_in(key, after) != "trajectory"),
            next_step="leave them as they were, in run.json too; start a new run; or add `override=True`",
        )
    said = tuple(f"changed on resuming: {key} {old!r} → {new!r} ({kind})" for key, old, new, kind in changes)
    return after, said


def check_data(before: str, now: str, *, accept: bool) -> None:
    """Raises DataError when the images (names, sizes, labels) are not those the run was started on."""
    if before != now and not accept:
        raise DataError(
            f"the images changed since the checkpoint was written (fingerprint {before[:12]} then, {now[:12]} now)",
            next_step="put them back, or give the opened images again; start a new run; or add `accept_data_change=True`",
        )
