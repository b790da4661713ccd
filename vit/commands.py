"""Typed settings of the commands that do not train, checked like those of config.py."""

from dataclasses import dataclass, field
from typing import Literal

from vit.checks import check, check_batch_size, check_project, check_types


@dataclass
class EvalDataConfig:
    """Where CIFAR-10 is.

    Args:
        root: folder that holds, or will hold, the data set.
    """

    root: str = "data"


@dataclass
class EvalWandbConfig:
    """Weights & Biases.

    Args:
        mode: auto is what WANDB_MODE says, else online if an API key is found and offline otherwise.
        project: project to log to; null is that of the training for a run folder, of other checkpoints the default.
        entity: team or user; null likewise.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str | None = None
    entity: str | None = None

    def __post_init__(self) -> None:
        check_types(self, "wandb.")
        if self.project is not None:
            check_project("wandb.project", self.project)


@dataclass
class EvalConfig:
    """Evaluate a checkpoint on CIFAR-10.

    Args:
        checkpoint: run folder (its best weights), checkpoint folder, hf-hub:owner/name or
            wandb:entity/project/name:alias.
        split: the test split, or the validation split of the training.
        device: auto, cpu, cuda, cuda:1, mps.
        tta: report beside the accuracy that with test-time augmentation, the mean of ten views, at ten times the cost.
        batch_size: images per forward pass; null is that of the training.
        precision: auto, fp32 or bf16; null is that of the training, auto being bf16 where the device has units for it.
    """

    checkpoint: str
    split: Literal["test", "val"] = "test"
    tta: bool = False
    device: str = "auto"
    batch_size: int | None = None
    precision: Literal["auto", "fp32", "bf16"] | None = None
    data: EvalDataConfig = field(default_factory=EvalDataConfig)
    wandb: EvalWandbConfig = field(default_factory=EvalWandbConfig)

    def __post_init__(self) -> None:
        check_types(self)
        check_batch_size("batch_size", self.batch_size)


@dataclass
class PredictConfig:
    """Classify pictures.

    Args:
        checkpoint: run folder (its best weights), checkpoint folder, hf-hub:owner/name or
            wandb:entity/project/name:alias.
        images: files, folders (read to their depths), patterns in quotes, or - for a list of files on stdin.
        topk: how many classes to give for each picture.
        format: table to read; json, an object per picture and line; csv, a row per picture and class.
        attention: new folder for a picture of what each head looks at, per image.
        device: auto, cpu, cuda, cuda:1, mps.
        batch_size: images per forward pass; null is that of the training.
    """

    checkpoint: str
    images: list[str]
    topk: int = 5
    format: Literal["table", "json", "csv"] = "table"
    attention: str | None = None
    device: str = "auto"
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check(self.topk > 0, "topk", "a number above 0", self.topk)
        check_batch_size("batch_size", self.batch_size)


@dataclass
class ExportConfig:
    """Write a checkpoint as a file for other runtimes.

    Args:
        checkpoint: run folder (its best weights), checkpoint folder, hf-hub:owner/name or
            wandb:entity/project/name:alias.
        format: onnx, or torch for a program of torch.export.
        output: file to write, which must not exist; null makes it from the run's name.
        preprocess: take uint8 pixels as they are stored; false takes what `model.preprocess` gives.
    """

    checkpoint: str
    format: Literal["onnx", "torch"] = "onnx"
    output: str | None = None
    preprocess: bool = True
    data: EvalDataConfig = field(default_factory=EvalDataConfig)

    def __post_init__(self) -> None:
        check_types(self)


@dataclass
class DemoConfig:
    """Show in a browser what one checkpoint, or two side by side, see in a picture.

    Args:
        checkpoints: one or two, each a run folder (its best weights), checkpoint folder, hf-hub:owner/name or
            wandb:entity/project/name:alias.
        host: address to listen at; 127.0.0.1 is for this machine alone.
        port: port to listen at.
        device: auto, cpu, cuda, cuda:1, mps.
    """

    checkpoints: list[str]
    host: str = "127.0.0.1"
    port: int = 7860
    device: str = "auto"
    data: EvalDataConfig = field(default_factory=EvalDataConfig)

    def __post_init__(self) -> None:
        check_types(self)
        check(len(self.checkpoints) in (1, 2), "checkpoints", "one or two", self.checkpoints)
        check(0 < self.port < 65536, "port", "a number from 1 to 65535", self.port)


@dataclass
class PublishConfig:
    """Write a finished run's best weights, measured, with a model card, into a folder to be committed.

    Args:
        run: folder of the finished run.
        target: folder to write, e.g. checkpoints/multi_head; its name is the model's.
        device: auto, cpu, cuda, cuda:1, mps.
    """

    run: str
    target: str
    device: str = "auto"
    data: EvalDataConfig = field(default_factory=EvalDataConfig)

    def __post_init__(self) -> None:
        check_types(self)


@dataclass
class CompareWandbConfig:
    """Weights & Biases.

    Args:
        mode: of all trainings; null is what the study says.
    """

    mode: Literal["auto", "online", "offline", "disabled"] | None = None


@dataclass
class RayConfig:
    """A Ray cluster that trains the runs of a study, instead of this machine alone.

    Args:
        address: of the cluster, e.g. auto for the one that this machine is part of; null for none.
        cpus_per_run: CPU cores of each training.
        gpus_per_run: share of a GPU of each training, e.g. 0.25 for four that share one; 0 trains on CPUs.
    """

    address: str | None = None
    cpus_per_run: int = 1
    gpus_per_run: float = 0.0

    def __post_init__(self) -> None:
        check_types(self, "ray.")
        check(self.cpus_per_run > 0, "ray.cpus_per_run", "a number above 0", self.cpus_per_run)
        fits = 0 <= self.gpus_per_run <= 1
        check(fits, "ray.gpus_per_run", "a number from 0 to 1: a training uses one GPU", self.gpus_per_run)


@dataclass
class CompareConfig:
    """Run a study: train what is missing of its arms and seeds, and collect results.csv.

    Args:
        study: YAML file that names the arms, the seeds and what is tuned.
        runs_dir: folder that holds the study's run folders, in a folder of the study's name (apart from
            those of train.py: a study may be named like a config).
        reports_dir: folder that holds results.csv, in a folder of the study's name.
        device: auto, cpu, cuda, cuda:1; null is what the study says.
        workers: trainings at a time on this machine; on a CPU they share its cores.
        wandb_report: train nothing, and make a workspace and a report of the study's runs in W&B.
        dry_run: with wandb_report, only show what would be saved.
    """

    study: str
    runs_dir: str = "runs/studies"
    reports_dir: str = "reports"
    device: str | None = None
    workers: int = 1
    wandb_report: bool = False
    dry_run: bool = False
    wandb: CompareWandbConfig = field(default_factory=CompareWandbConfig)
    ray: RayConfig = field(default_factory=RayConfig)

    def __post_init__(self) -> None:
        check_types(self)
        check(self.workers > 0, "workers", "a number above 0", self.workers)
        check(not self.dry_run or self.wandb_report, "dry_run", "false without wandb_report", self.dry_run)
        here = self.ray.address is None or self.workers == 1
        check(here, "workers", "1 with ray.address, whose cluster trains as many as it has room for", self.workers)


@dataclass
class ReportConfig:
    """Write the page of a study from its results.csv.

    Args:
        study: YAML file of the study.
        reports_dir: folder that holds results.csv, in a folder of the study's name.
    """

    study: str
    reports_dir: str = "reports"

    def __post_init__(self) -> None:
        check_types(self)
