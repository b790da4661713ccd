"""The names that Hugging Face's models have: `from_pretrained`, `save_pretrained`, `push_to_hub`.

Thin methods over `vit.checkpoint`: huggingface_hub's own mixin writes another config.json, ignores tensors that are
missing or strange unless told, and takes longer to import than all of `vit`.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from vit.model import VisionTransformer


class Pretrained:
    """What a model can do with files and hubs, which are imported when asked for."""

    @staticmethod
    def from_pretrained(source: str | Path, device: "str | torch.device" = "cpu") -> "VisionTransformer":
        """`vit.load`, which also takes a bare `owner/name` for a repository on the hub; a folder here goes first.

        Raises:
            UsageError: there is no checkpoint, or it is damaged, foreign or incomplete.
        """
        from vit import checkpoint

        if str(source).count("/") == 1 and ":" not in str(source) and not Path(source).exists():
            source = f"hf-hub:{source}"
        return checkpoint.load(source, device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, model.safetensors and a model card; what is in the way of them is replaced.

        Raises:
            UsageError: the model was not loaded from a checkpoint, so that nothing is known about it.
        """
        from vit import checkpoint

        checkpoint.save(Path(folder), self, f"path/to/{Path(folder).name}")  # type: ignore[arg-type]

    def push_to_hub(self, name: str, private: bool = False, token: str | None = None) -> str:
        """Upload what `save_pretrained` writes to the repository `owner/name`, made if need be.

        Args:
            token: that of `hf auth login` if null.

        Returns:
            The address of the commit.

        Raises:
            UsageError: as in `save_pretrained`, or the hub refuses or cannot be reached.
        """
        from huggingface_hub import HfApi

        from vit import checkpoint, sources

        with tempfile.TemporaryDirectory() as folder:
            checkpoint.save(Path(folder), self, f"hf-hub:{name}")  # type: ignore[arg-type]
            api = HfApi(token=token)
            try:
                api.create_repo(name, private=private, exist_ok=True)
                done: Any = api.upload_folder(repo_id=name, folder_path=folder, commit_message=f"Upload {name}")
            except Exception as error:  # of whatever carries the request
                raise sources.refusal(f"hf-hub:{name}", error) from error
        return str(done.commit_url)
