"""One model.safetensors from a run's newest checkpoint, whichever number of ranks wrote it and however it ended."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitrail.checkpoints import read as checkpoints
from vitrail.errors import CheckpointError
from vitrail.models import zoo
from vitrail.training.outcome import make_record
from vitrail.training.run import Run
from vitrail.training.run_data import open_run
from vitrail.training.run_folder import RunFolder
from vitrail.training.state import Facts, misfits, refuse_misfits, take
from vitrail.weights.bundle import save_bundle
from vitrail.weights.published_file import refuse_folds
from vitrail.weights.trained_on import carry_trained_keys, refuse_run


def export_run(folder: str | Path, out: str | Path, *, say: Callable[[str], None] = print) -> int:
    """Writes the bundle `out` of a run folder, the average of the weights where the run keeps one; gives the step.

        vitrail.export_run("runs/digits-1", "digits-now")

    The class names are read from the run's data. Raises CheckpointError where there is no checkpoint yet,
    ConfigError where `out` is a run itself.

    Args:
        folder: A run folder.
        out: The new folder for the bundle.
    """
    path, out = Path(folder), Path(out)
    refuse_folds(path)
    run = RunFolder.read(path)
    refuse_run(out)
    snapshot = checkpoints.newest(path / "checkpoints", say=say)
    if snapshot is None:
        raise CheckpointError(f"{path} has no checkpoint yet", next_step="let the run come to its first, or take best/")
    trained = Facts.of(snapshot).run
    run = replace(trained, data=run.data) if trained else run  # the images may have moved
    fresh = learned_model(run, snapshot)
    train = open_run(run).train
    source = f"trained by vitrail on {train.name}, step {snapshot.step} of {run.length}"
    record = make_record(fresh, run, train, source=source)
    save_bundle(out, fresh, record)
    carry_trained_keys(path, out)
    return snapshot.step


def learned_model(run: Run, snapshot: checkpoints.Snapshot) -> Any:
    """A model with the tensors of a checkpoint, without what its objective built around it."""
    learner: Any = run.objective.build(zoo.skeleton(run.model)).to_empty(device="cpu")
    # buffers that are not saved follow from the config: a fresh model has them
    fresh: Any = zoo.build(run.model)
    found = snapshot.tensors.get("ema") or snapshot.tensors["model"]
    refuse_misfits(misfits("", found, learner.state_dict()))
    take(found, learner.state_dict())
    fresh.load_state_dict(run.objective.model_of(learner).state_dict())
    return fresh
