"""Questions to W&B outside of a run: each ends with an answer, or soon with the reason why there is none."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vit.checks import UsageError

if TYPE_CHECKING:
    import wandb

# Two attempts and the pause between them take less than the 19 s that W&B's Api waits by default; and silent, a login
# does not ask who you are, for which W&B waits less.
BRIEF = {"x_graphql_retry_max": 1, "x_graphql_timeout_seconds": 7.0, "silent": True}
PATIENCE = 60  # seconds until the Api given here gives a question up: far longer than W&B tries


@contextmanager
def open_api(what: str, otherwise: str) -> Iterator["wandb.Api"]:
    """W&B's Api for who is logged in; inside, any other that W&B's libraries open is as quick to give up.

    By default W&B tries twenty times while its Api waits for one: that ends without the reason, and if the process ends
    right after a question that nobody waits for any more, it can wait for W&B's service for ever (W&B 0.31).

    Args:
        what: asked for, to begin an error with.
        otherwise: what else there is to do without an account, to end it with.

    Raises:
        UsageError: the package is not installed, or nobody is logged in.
    """
    try:
        import wandb
    except ModuleNotFoundError:
        raise UsageError(f"{what}: the package wandb is not installed: pip install wandb") from None

    settings = wandb.setup().settings
    before = {name: getattr(settings, name) for name in BRIEF}
    try:
        for name, value in BRIEF.items():
            setattr(settings, name, value)
        if not wandb.login(prompt=False, verify=False):
            raise UsageError(f"{what}: not logged in to W&B: wandb login, or {otherwise}")
        yield wandb.Api(timeout=PATIENCE)
    finally:
        for name, value in before.items():
            setattr(settings, name, value)
