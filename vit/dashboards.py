"""A study in Weights & Biases: a workspace to explore its runs in and a report to show, of the same panels.

They show the runs of one W&B group, which is the study's name (vit/compare.py), by the metrics that train.py logs.
"""

import itertools
import json
import os
from typing import Any

from vit.checks import UsageError, one_line
from vit.commands import CompareConfig
from vit.config import flatten
from vit.study import Study
from vit.study_file import load_study
from vit.terminal import say
from vit.wandb_api import open_api

try:
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as workspaces
except ImportError:
    missing = "the package wandb-workspaces is missing: pip install -e '.[dashboards]'"
    raise UsageError(f"wandb_report: {missing}") from None

COSTS = {
    "compute/train_flops": "training FLOPs",
    "compute/train_seconds": "training seconds",
    "model/params": "parameters",
}
MOST_RUNS = 1000  # drawn; W&B leaves out what is beyond, without a word
PICTURES = ("test/predictions", "test/attention")


def write_dashboards(config: CompareConfig) -> dict[str, Any]:
    """Save a workspace and a report of a study, new ones at every call; nothing is trained.

    Returns:
        Their addresses, or in a dry run, which needs neither network nor account, all that would be saved.

    Raises:
        UsageError: the study cannot be read, nobody is logged in, or W&B refuses.
    """
    study = load_study(config.study)
    target = next(iter(study.configs.values())).wandb
    if config.dry_run:
        views = views_of(study, target.entity or "", target.project)
        models = {name: view._to_model() for name, view in views.items()}
        specs = {name: model.model_dump_json(by_alias=True, exclude_none=True) for name, model in models.items()}
        return {"study": study.name, **{name: json.loads(spec) for name, spec in specs.items()}}
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        with open_api("wandb_report", "--dry-run to see what would be saved") as api:
            views = views_of(study, str(target.entity or api.default_entity), target.project)
            urls = {name: view.save().url for name, view in views.items()}
    except UsageError:
        raise
    except Exception as error:  # of many kinds, none of them ours
        raise UsageError(f"wandb_report: W&B did not save it ({one_line(error)})") from error
    for name, url in urls.items():
        say(f"{name:10}{url}")
    return {"study": study.name, **urls}


def views_of(study: Study, entity: str, project: str) -> dict[str, Any]:
    return {"workspace": workspace(study, entity, project), "report": report(study, entity, project)}


def workspace(study: Study, entity: str, project: str) -> workspaces.Workspace:
    return workspaces.Workspace(
        entity,
        project,
        name=study.name,
        sections=[
            workspaces.Section(title, panels=panels, is_open=True) for title, panels in sections_of(study).items()
        ],
        settings=workspaces.WorkspaceSettings(x_axis="compute/train_flops", max_runs=MOST_RUNS),
        runset_settings=workspaces.RunsetSettings(filters=of_study(study)),
    )


def report(study: Study, entity: str, project: str) -> reports.Report:
    """The panels of the workspace, and between them one that W&B can only draw of runs grouped by several settings."""

    def grid(panels: list[Any], groupby: list[str]) -> reports.PanelGrid:
        # No entity and project are the report's own; if they were named, W&B would be asked for them, dry run or not.
        runs = reports.Runset(name=study.name, filters=of_study(study), groupby=groupby)
        return reports.PanelGrid(runsets=[runs], panels=panels)

    first, *others = [[reports.H2(title), grid(panels, [])] for title, panels in sections_of(study).items()]
    keys = dict.fromkeys(key for settings in study.arms.values() for key in settings)
    by_arm = accuracy_by(
        "compute/train_flops",
        title="Validation accuracy by training FLOPs, by arm",
        layout=reports.Layout(w=24, h=12),
    )
    blocks: list[Any] = [
        reports.P(f"{len(study.arms)} arms ({', '.join(study.arms)}), {len(study.seeds)} seeds each."),
        reports.P("Bands are one standard deviation of the runs of a line. Validation accuracy chose the weights."),
        *first,
        grid([by_arm], [f"config.{key}.value" for key in keys]),
        *itertools.chain(*others),
    ]
    return reports.Report(project, entity, title=(study.title or study.name)[:128], blocks=blocks, width="fluid")


def of_study(study: Study) -> Any:
    """The filter that lets a study's final runs through; those that tuned are of another group."""
    return workspaces.And(workspaces.Metric("Group") == study.name)


def sections_of(study: Study) -> dict[str, list[Any]]:
    """The panels by the titles of their sections."""
    curves = [
        accuracy_by(
            cost,
            title=f"Validation accuracy by {COSTS[cost]}, by heads (arms of equal heads are one line)",
            groupby="model.heads.value",  # as W&B files a setting whose name has dots
            layout=reports.Layout(x=12 * column, w=12, h=10),
        )
        for column, cost in enumerate(("compute/train_flops", "compute/train_seconds"))
    ]
    scatters = [
        reports.ScatterPlot(
            title=f"Best validation accuracy by {title}",
            x=reports.SummaryMetric(cost),
            y=reports.SummaryMetric("best/val_acc"),
            log_x=True,
            running_ymax=True,
            layout=reports.Layout(x=8 * column, w=8, h=8),
        )
        for column, (cost, title) in enumerate(COSTS.items())
    ]
    columns: list[Any] = [Setting(reports.Config(key), display_name=key) for key in differing(study)]
    columns.append(reports.ParallelCoordinatesPlotColumn(reports.SummaryMetric("best/val_acc")))
    settings = reports.ParallelCoordinatesPlot(
        columns=columns,
        title="Settings that differ, and what came of them",
        layout=reports.Layout(w=24, h=10),
    )
    pictures = reports.MediaBrowser(media_keys=list(PICTURES), num_columns=4, layout=reports.Layout(w=24, h=12))
    return {
        "Accuracy against compute": curves,
        "What a run costs": scatters,
        "Settings": [settings],
        "Pictures": [pictures],
    }


def accuracy_by(cost: str, **options: Any) -> reports.LinePlot:
    """Mean and standard deviation of the runs that belong together, as they train."""
    spread: dict[str, Any] = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev", "max_runs_to_show": MOST_RUNS}
    return reports.LinePlot(x=cost, y=["val/acc"], log_x=True, **spread, **options)


class Setting(reports.ParallelCoordinatesPlotColumn):
    """A column of a setting whose name has dots, which the library would take for levels of nesting."""

    def _to_model(self) -> Any:
        column = super()._to_model()
        column.accessor = f"config:{self.display_name}.value"
        return column


def differing(study: Study) -> list[str]:
    """The settings that are not the same in all arms, or are tuned."""
    configs = [flatten(config) for config in study.configs.values()]
    return [key for key in configs[0] if len({json.dumps(config[key]) for config in configs}) > 1]
