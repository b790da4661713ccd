"""Where a checkpoint comes from: a folder here, the Hugging Face hub, or an artifact of Weights & Biases."""

import re
from pathlib import Path

from vit.checks import UsageError, one_line
from vit.files import FULL
from vit.wandb_api import open_api

# All that is ever fetched of a checkpoint.
FILES = ("config.json", "model.safetensors", "README.md")

FORMS = "a run or checkpoint folder, hf-hub:owner/name[@revision] or wandb:entity/project/name:alias"


def fetch(source: str | Path, token: str | None = None) -> Path:
    """The folder on this machine that a source names; one on a hub is downloaded into that hub's cache first.

    Args:
        token: for a private repository of the Hugging Face hub; null is that of `hf auth login`.

    Raises:
        UsageError: the source is a URL or misspelt, is not there, or cannot be reached.
    """
    text = str(source)
    kind, _, name = text.partition(":")
    if kind == "hf-hub":
        return from_hub(text, name, token)
    if kind == "wandb":
        return from_wandb(text, name)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        raise UsageError(f"{text}: expected {FORMS}; URLs are not followed")
    return Path(source)


def from_hub(source: str, name: str, token: str | None) -> Path:
    """A snapshot of a model repository on the Hugging Face hub, or without network the cached one.

    Args:
        name: `owner/name`, or as timm has it `owner/name@revision`, a branch, tag or commit.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import validate_repo_id

    name, at, revision = name.partition("@")
    if at and (".." in revision or not re.fullmatch(r"[\w./-]+", revision, re.ASCII)):
        name = ""
    try:
        validate_repo_id(name)
    except HFValidationError:
        name = ""
    if name.count("/") != 1:
        raise UsageError(f"{source}: expected hf-hub:owner/name or hf-hub:owner/name@revision")
    try:
        return Path(snapshot_download(name, revision=revision or None, token=token, allow_patterns=list(FILES)))
    except RevisionNotFoundError:
        raise UsageError(f"{source}: this repository has no such branch, tag or commit") from None
    except RepositoryNotFoundError:
        raise UsageError(f"{source}: there is no such repository, or it is private and you are not logged in") from None
    except LocalEntryNotFoundError as error:
        reason = one_line(error.__cause__ or error)
        raise UsageError(f"{source}: the hub cannot be reached, and it is not in the cache ({reason})") from None
    except Exception as error:  # of whatever carries the request
        raise refusal(source, error) from error


def from_wandb(source: str, name: str) -> Path:
    """The files of a model artifact, in W&B's cache folder."""
    if ".." in name or not re.fullmatch(r"[\w.-]+/[\w. -]+/[\w.-]+:[\w.-]+", name, re.ASCII):
        raise UsageError(f"{source}: expected wandb:entity/project/name:alias")
    try:
        with open_api(source, "the variable WANDB_API_KEY") as api:
            from wandb.env import get_cache_dir

            artifact = api.artifact(name, type="model")
            if not re.fullmatch(r"v\d+", artifact.version):
                raise UsageError(f"{source}: expected a version like v0, got {artifact.version!r}")
            entries = {file: artifact.manifest.entries.get(file) for file in FILES}
            place = name.partition(":")[0].replace("/", "--")
            folder = Path(get_cache_dir()) / "checkpoints" / f"{place}--{artifact.version}"
            for file, entry in entries.items():
                if entry is not None and entry.ref is not None:  # anywhere at all, a file of this machine too
                    raise UsageError(f"{source}: {file} is a reference to {entry.ref}, which is not followed")
            for file in FILES:
                if entries[file] is not None:
                    artifact.get_entry(file).download(str(folder))
            return folder
    except UsageError:
        raise
    except Exception as error:
        raise refusal(source, error) from error


def refusal(source: str, error: Exception) -> Exception:
    """What to raise for an error of a download: itself where the disk is full, else one line."""
    if isinstance(error, OSError) and error.errno in FULL:
        return error
    return UsageError(f"{source}: the transfer failed ({one_line(error)})")


def check_inside(path: Path, folder: Path) -> None:
    """Refuse a file that a link leads out of the folder it was looked for in.

    The folder itself may be a link, and the hub's cache keeps its files in `blobs` beside `snapshots`.

    Raises:
        UsageError: `path` really lies elsewhere.
    """
    home = folder.resolve()
    allowed = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    real = path.resolve()
    if not any(real.is_relative_to(each) for each in allowed):
        raise UsageError(f"{path}: a link out of {folder}, which is not followed")
