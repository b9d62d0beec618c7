"""Callbacks that hand the rows of a log to TensorBoard, MLflow and Weights & Biases."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitrail.errors import ConfigError
from vitrail.reports.journal import Callback


def log_to_tensorboard(folder: str | Path) -> Callback:
    """Writes each row as scalars at its step, into files of this folder. Needs the extra `tensorboard`."""
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        raise ConfigError("TensorBoard is not installed", next_step="pip install 'vitrail[tensorboard]'") from None
    writer = SummaryWriter(str(folder))

    def log(row: Mapping[str, Any]) -> None:
        for name, value in numbers_of(row).items():
            writer.add_scalar(name, value, int(row["step"]))
        writer.flush()  # its own thread would hold rows back for two minutes

    return log


def log_to_mlflow(name: str | None = None) -> Callback:
    """Starts a run of MLflow; each row becomes metrics at its step. Needs mlflow.

    vitrail.train("./photos", callbacks=[log_to_mlflow("photos")])
    """
    try:
        import mlflow  # pyrefly: ignore[missing-import]
    except ImportError:
        raise ConfigError("MLflow is not installed", next_step="pip install 'vitrail[mlflow]'") from None
    mlflow.start_run(run_name=name)
    return lambda row: mlflow.log_metrics(numbers_of(row), step=int(row["step"]))


def log_to_wandb(project: str, name: str | None = None) -> Callback:
    """Starts a run of Weights & Biases; each row becomes one of its rows. Needs wandb."""
    try:
        import wandb  # pyrefly: ignore[missing-import]
    except ImportError:
        raise ConfigError("Weights & Biases is not installed", next_step="pip install 'vitrail[wandb]'") from None
    run = wandb.init(project=project, name=name)
    return lambda row: run.log(numbers_of(row), step=int(row["step"]))


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row but its step."""
    return {name: float(value) for name, value in row.items() if name != "step" and isinstance(value, int | float)}
