"""Weights & Biases and metrics.jsonl, side by side, with the same rows."""

import errno
import importlib.util
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vit.checks import UsageError, one_line
from vit.config import Config, WandbConfig, flatten
from vit.terminal import python_command, say

# Every row carries these (energy on a GPU only), so that each can be the x-axis of any chart; the first is the default.
AXES = ("compute/train_flops", "compute/images_seen", "compute/train_seconds", "compute/epoch", "compute/energy_joules")

INIT_TIMEOUT = 20  # seconds to wait for a server before going on offline
FINISH_TIMEOUT = 30  # seconds to wait at the end for a server that has stopped answering

Row = dict[str, Any]


class WandbRun:
    """One W&B run that never prompts and never stops the work: what W&B cannot do is said in one line.

    Args:
        folder: W&B writes below `folder/wandb`.
        settings: the run's config, flat and dotted as sweeps write it.
        id: id of the run to go on with or to start; a new one if null.
    """

    def __init__(
        self,
        folder: Path,
        config: WandbConfig,
        *,
        name: str,
        job_type: str,
        settings: dict[str, Any],
        id: str | None = None,
    ) -> None:
        self.id = id or secrets.token_hex(4)
        self.id_given = id is not None
        self.folder = folder
        self.run: Any = None
        self.rows = 0  # rows that W&B already has of this run
        self.fell_back = False  # to offline, because the server did not answer
        if config.mode == "disabled":
            return
        if importlib.util.find_spec("wandb") is None:
            say("W&B: the package wandb is not installed, so nothing goes there")
            return
        os.environ.setdefault("WANDB_SILENT", "true")  # its lines are many; ours say what matters
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # or an offline run would try to reach the network
        import wandb

        self.safely("start", lambda: self.start(wandb, config, name, job_type, settings))

    def start(self, wandb: Any, config: WandbConfig, name: str, job_type: str, settings: dict[str, Any]) -> None:
        mode = self.choose_mode(wandb, config.mode)
        if mode == "disabled":
            return

        def init(mode: str) -> Any:
            if mode == "offline":
                self.rows = self.rows_elsewhere()
            wandb.setup().settings.run_id = self.id  # in a sweep W&B ignores the id that init is given
            return wandb.init(
                project=config.project,
                entity=config.entity,
                dir=self.folder,
                id=self.id,
                resume="allow" if mode == "online" else None,
                name=name,
                job_type=job_type,
                config=settings,
                mode=mode,
                reinit="create_new",
                settings=wandb.Settings(
                    init_timeout=INIT_TIMEOUT,
                    finish_timeout=FINISH_TIMEOUT,
                    finish_timeout_raises=True,
                    x_transaction_log_flush_interval=1,  # 15 s by default, lost when the process is killed
                ),
            )

        try:
            self.run = init(mode)
        except Exception as error:
            if mode == "offline":
                raise
            say(f"W&B: {mode} failed ({one_line(error)})")
            self.fell_back = True
            for started in (self.folder / "wandb").glob(f"run-*-{self.id}"):
                if not any((started / "files").iterdir()):  # the attempt just made; earlier ones hold data
                    shutil.rmtree(started)
            if self.id_given:
                wandb.teardown()  # or it would still be in use; ends the other runs of this process
            else:
                self.id = secrets.token_hex(4)
            self.run = init("offline")
        if self.online:
            self.rows = self.run.starting_step
        for axis in AXES:
            self.run.define_metric(axis)
        for group in ("train", "val", "test"):
            self.run.define_metric(f"{group}/*", step_metric=AXES[0])
        self.run.define_metric("val/acc", step_metric=AXES[0], summary="max,last")
        say(f"W&B: {how_to_look(self.location)}")

    def choose_mode(self, wandb: Any, mode: str) -> str:
        """The mode that is asked for; of auto what the environment variable WANDB_MODE says, else online if there is
        an API key."""
        word = os.environ.pop("WANDB_MODE", "").lower()
        word = {"run": "online", "dryrun": "offline"}.get(word, word)  # W&B's older names
        if word not in ("", "online", "offline", "disabled"):
            if mode == "auto":
                say(f"W&B: WANDB_MODE: expected online, offline or disabled, got {word!r}; going on offline")
            word = "offline"
        if word:
            os.environ["WANDB_MODE"] = word  # W&B reads it again, and stops at what it does not know
        if mode != "auto":
            return mode
        if word:
            return word
        try:
            return "online" if wandb.login(prompt=False, verify=False) else "offline"
        except Exception as error:  # a malformed key
            say(f"W&B: cannot log in ({one_line(error)}); going on offline")
            return "offline"

    @property
    def online(self) -> bool:
        return self.run is not None and not self.run.offline

    def rows_elsewhere(self) -> int:
        """Rows of this run in folders of earlier processes that were sent to W&B; those that were not are set aside.

        W&B cannot go on with a run offline: when synced, each folder adds its rows to those the server has. So the
        folder about to be made takes over the rows of the unsent ones.
        """
        sent = 0
        for folder in sorted((self.folder / "wandb").glob(f"*run-*-{self.id}*")):
            if folder.name.startswith("run-") or list(folder.glob("*.synced")):
                command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
                records = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
                sent += sum(json.loads(record)["type"] == "history" for record in records)
            elif folder.name.startswith("offline-run-"):
                folder.rename(folder.with_name(f"superseded-{folder.name}"))
        return sent

    def log(self, row: Row, media: Callable[[], Row] | None = None) -> None:
        if self.run is None:
            return
        pictures: Row = {}
        if media:
            try:
                pictures = media()
            except Exception as error:  # of W&B's, or of ours: the row counts more
                say(f"W&B: the pictures of the evaluation failed ({type(error).__name__}: {one_line(error)})")
        self.safely("log", lambda: self.run.log(row | pictures))

    def upload(self, folder: Path, name: str, aliases: list[str], metadata: dict[str, Any]) -> None:
        """Store a checkpoint folder as an artifact of type model, if online."""
        if not self.online:
            return
        import wandb

        def send() -> None:
            # Artifacts have stricter names than runs.
            artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", name), type="model", metadata=metadata)
            for file in sorted(folder.iterdir()):
                # By reference to the file itself: no second copy in a staging folder or cache.
                artifact.add_file(str(file), policy="immutable", skip_cache=True)
            self.run.log_artifact(artifact, aliases=aliases)

        self.stage_here()
        try:
            send()
        except Exception as error:
            say(f"W&B: the checkpoint was not uploaded ({one_line(error)})")

    @property
    def location(self) -> str | None:
        """The run's address if it is online, its folder if it is offline."""
        if self.run is None:
            return None
        return str(self.run.url) if self.online else os.path.relpath(self.run.settings.sync_dir)

    def finish(self, exit_code: int = 0) -> None:
        """Wait, for a bounded time, until everything is written or sent."""
        if self.run is None:
            return
        folder = os.path.relpath(self.run.settings.sync_dir)
        try:
            self.run.finish(exit_code)
        except Exception as error:
            sync = f"{wandb_command()} sync --include-online {folder}"
            say(f"W&B: not everything was sent ({one_line(error)}); send it with `{sync}`")

    def stage_here(self) -> None:
        """Let tables and artifacts of this run wait for `wandb sync` in its folder: at home they could get lost, and in
        that of another run of this process they would go with it."""
        os.environ["WANDB_DATA_DIR"] = str((self.folder / "wandb" / "data").resolve())

    def safely(self, what: str, action: Callable[[], None]) -> None:
        self.stage_here()
        try:
            action()
        except Exception as error:
            say(f"W&B: {what} failed, going on without it ({one_line(error)})")
            self.finish(1)
            self.run = None


class Tracker:
    """The rows of one training run, to `metrics.jsonl` and to W&B.

    Args:
        folder: the run folder.
        state: what `state()` returned when the run was last saved. Rows logged after that are cut off the file, and
            W&B is brought to exactly the rows of the file, so that a resumed run has every row once.
    """

    def __init__(self, folder: Path, config: Config, state: dict[str, Any] | None = None) -> None:
        state = state or {"bytes": 0, "wandb_id": None}
        self.path = folder / "metrics.jsonl"
        if state["bytes"] > (self.path.stat().st_size if self.path.exists() else 0):
            raise UsageError(f"{self.path}: shorter than when the run was saved, cannot resume")
        self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - open as long as the run
        self.file.truncate(state["bytes"])
        self.file.seek(0, os.SEEK_END)
        self.wandb = WandbRun(
            folder,
            config.wandb,
            name=str(config.name),
            job_type="train",
            settings=flatten(config),
            # A sweep's agent chooses the id; taken out, so that a second run of this process gets its own.
            id=state["wandb_id"] or os.environ.pop("WANDB_RUN_ID", None),
        )
        rows = self.rows()
        for row in rows[self.wandb.rows :]:
            self.wandb.log(row)
        self.already_sent = max(0, self.wandb.rows - len(rows))

    def log(self, row: Row, media: Callable[[], Row] | None = None) -> None:
        """Log one row; `media` makes what only W&B can show (pictures, tables).

        Raises:
            OSError: the disk is full; the file then ends with the row before.
        """
        line = json.dumps(row).encode() + b"\n"
        end = self.file.tell()
        if self.file.write(line) != len(line):
            self.file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        if self.already_sent:
            self.already_sent -= 1
        else:
            self.wandb.log(row, media)

    def rows(self) -> list[Row]:
        try:
            return [json.loads(line) for line in self.path.read_text().splitlines()]
        except ValueError:
            raise UsageError(f"{self.path}: damaged, cannot resume") from None

    def last_values(self) -> Row:
        """The last value of every metric."""
        last: Row = {}
        for row in self.rows():
            last |= row
        return last

    def state(self) -> dict[str, Any]:
        return {"bytes": self.file.tell(), "wandb_id": self.wandb.id}

    def finish(self, exit_code: int = 0) -> None:
        self.file.close()
        self.wandb.finish(exit_code)


def how_to_look(location: str | None) -> str:
    """What to do with a run's `location`, as one line."""
    if location is None:
        return "none; metrics.jsonl has every row"
    if location.startswith("http"):
        return location
    return f"offline; look: {wandb_command()} leet {location}   upload: {wandb_command()} sync {location}"


def wandb_command() -> str:
    """How the user calls W&B's command, which may not be on the path."""
    return "wandb" if shutil.which("wandb") else f"{python_command()} -m wandb"
