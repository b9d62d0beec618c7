"""`hf:owner/name`: image sets of the Hugging Face Hub, read from the Parquet files the Hub keeps of every set.

No code of the set's repository is ever run, which is why this does not go through its loading scripts.
"""

from pathlib import Path

from vitrail.errors import DataError
from vitrail.images.parquet import open_parquet
from vitrail.images.samples import Splits

_PARQUET = "refs/convert/parquet"  # the branch on which the Hub keeps them


def open_hub(name: str, *, holdout: float, seed: int, download: bool) -> Splits:
    """A set by its name on the Hub, with its configuration after a colon where it has several (`hf:owner/name:config`)."""
    repository, _, config = name.partition(":")
    folder = _snapshot(repository, config or "*", download)
    configs = sorted({path.relative_to(folder).parts[0] for path in folder.rglob("*.parquet")})
    if config not in configs and len(configs) != 1:
        raise DataError(
            f"{repository} has {len(configs)} configurations",
            allowed=", ".join(f"hf:{repository}:{one}" for one in configs[:8]),
        )
    return open_parquet(folder / (config if config in configs else configs[0]), holdout=holdout, seed=seed)


def _snapshot(repository: str, config: str, download: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                repository,
                repo_type="dataset",
                revision=_PARQUET,
                allow_patterns=[f"{config}/**/*.parquet", f"{config}/*.parquet"],
                local_files_only=not download,
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if download and str(error).strip() else "there is no local copy"
        raise DataError(
            f"the set {repository} of the Hugging Face Hub cannot be opened ({reason})",
            next_step="check the name and the network" if download else "fetch it with `download=True`",
        ) from None
