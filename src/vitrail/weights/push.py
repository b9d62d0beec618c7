"""Weights to the Hugging Face hub, with a model card."""

from pathlib import Path

from vitrail import config as configs
from vitrail.errors import WeightsError
from vitrail.weights.bundle import NEXT, RECORD, TENSORS, find_bundle, read
from vitrail.weights.files.hub import network_error
from vitrail.weights.model_card import write_card
from vitrail.weights.record import Record
from vitrail.weights.trained_on import TRAINED_KEYS


def push(folder: str | Path, name: str, *, private: bool = False, token: str | None = None) -> str:
    """Uploads the bundle in `folder` (or of the run there) to the hub as `name`, "owner/name"; gives its address.

        vitrail.push("runs/photos-1", "me/photos")
        vitrail.load("hf:me/photos")

    One commit holds model.safetensors, record.json, trained.keys where the bundle has it, and README.md, a card made of
    the record. The keys let others leave the images out that the weights were trained on. A repository that is
    missing is made. Raises WeightsError for a damaged bundle, and when the hub refuses or cannot be reached.

    Args:
        folder: A run or a bundle.
        name: The repository, owner/name; it is made if it is missing. Load it with hf:owner/name.
        private: Make a new repository private.
        token: One of the hub's; by default that of `hf auth login` or HF_TOKEN.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name if "/" in name else "")
    except HFValidationError:
        raise WeightsError(f"{name!r} is not a name of the hub", allowed="owner/name") from None
    found = find_bundle(Path(folder))
    if found is None:
        raise WeightsError(f"there is no bundle in {folder}", next_step="name a run folder, or save the model first")
    record = read(found).record  # every byte against its record, before anything leaves
    return _upload(found, record_file(found, record), name, write_card(record, name), private, token)


def record_file(found: Path, record: Record) -> Path:
    """The file of that record: a save that was stopped leaves two."""
    files = [found / name for name in (RECORD, NEXT) if (found / name).is_file()]
    return next(file for file in files if configs.read_json(Record, file).sha256 == record.sha256)


def _upload(found: Path, record: Path, name: str, card: str, private: bool, token: str | None) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi(token=token, library_name="vitrail")
    files = {"README.md": card.encode(), RECORD: record.read_bytes()}
    if (found / TRAINED_KEYS).is_file():
        files[TRAINED_KEYS] = (found / TRAINED_KEYS).read_bytes()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        done = api.create_commit(
            name,
            operations=[
                CommitOperationAdd(path_in_repo=path, path_or_fileobj=data)
                for path, data in (*files.items(), (TENSORS, str(found / TENSORS)))
            ],
            commit_message=f"Weights of {found.name or name}, written by vitrail",
        )
    except LocalTokenNotFoundError:
        raise WeightsError("no token of the hub was found", next_step="run `hf auth login`, or set HF_TOKEN") from None
    except (HfHubHTTPError, network_error(), OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        next_step = "run `hf auth login`, or pass a token that may write there" if status in (401, 403) else ""
        raise WeightsError(
            f"{name} could not be uploaded ({first})", next_step=next_step or "check the network and try again"
        ) from error
    return str(done.repo_url)
