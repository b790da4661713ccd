"""The names that Hugging Face's models have: `from_pretrained`, `save_pretrained`, `push_to_hub`.

Thin methods over `vit.checkpoint`: huggingface_hub's own mixin writes another config.json, ignores tensors that are
missing or strange unless told, and takes longer to import than all of `vit`.
"""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit.checks import UsageError

if TYPE_CHECKING:
    import torch

    from vit.model import VisionTransformer


class Pretrained:
    """What a model can do with files and hubs, which are imported when asked for."""

    @staticmethod
    def from_pretrained(
        pretrained_model_name_or_path: str | Path,
        device: "str | torch.device" = "cpu",
        *,
        revision: str | None = None,
        token: str | None = None,
    ) -> "VisionTransformer":
        """`vit.load`, which also takes a bare `owner/name` for a repository on the hub; a folder here goes first.

        Args:
            revision: branch, tag or commit of a repository on the hub.
            token: for a private one; null is that of `hf auth login`.

        Raises:
            UsageError: there is no checkpoint, or it is damaged, foreign or incomplete. So is what looks like
                `owner/name` where `owner` is a folder here: a slip in a path should not fetch a stranger's weights.
        """
        from vit import checkpoint

        source = str(pretrained_model_name_or_path)
        at = "" if revision is None else f"@{revision}"
        if ":" in source or os.path.exists(source) or source.count("/") != 1 or source.startswith("/"):
            if at and not source.startswith("hf-hub:"):
                raise UsageError(f"revision: expected null, as {source} is no repository on the hub")
            return checkpoint.load(f"{source}{at}", device, token)
        if os.path.exists(source.split("/")[0]):
            raise UsageError(f"{source}: no folder {source} here; one on the hub would be hf-hub:{source}")
        try:
            return checkpoint.load(f"hf-hub:{source}{at}", device, token)
        except UsageError as error:
            raise UsageError(f"{error}; and no folder {source} here") from error

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write config.json, model.safetensors and a model card; what is in the way of them is replaced.

        Raises:
            UsageError: the model was not loaded from a checkpoint, so that nothing is known about it, or the folder
                cannot be written.
        """
        from vit import checkpoint

        folder = Path(save_directory)
        checkpoint.save(folder, self, f"path/to/{folder.absolute().name}")  # type: ignore[arg-type]

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes to the repository `owner/name`, made if need be.

        Args:
            commit_message: null says that it is an upload.
            private: of a repository that is made; null is what its owner has chosen for new ones.
            token: null is that of `hf auth login`.

        Returns:
            The address of the commit.

        Raises:
            UsageError: as in `save_pretrained`, or the hub refuses or cannot be reached.
        """
        from huggingface_hub import HfApi

        from vit import checkpoint, sources

        with tempfile.TemporaryDirectory() as folder:
            checkpoint.save(Path(folder), self, f"hf-hub:{repo_id}")  # type: ignore[arg-type]
            api = HfApi(token=token)
            try:
                api.create_repo(repo_id, private=private, exist_ok=True)
                message = commit_message or f"Upload {repo_id}"
                done: Any = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
            except Exception as error:  # of whatever carries the request
                raise sources.refusal(f"hf-hub:{repo_id}", error) from error
        return str(done.commit_url)
