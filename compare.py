"""Train what a study asks for and is missing:  python compare.py configs/studies/fast_path.yaml"""

from typing import Any

from vit.cli import door
from vit.commands import CompareConfig


def main(config: CompareConfig) -> dict[str, Any]:
    if config.wandb_report:
        from vit.dashboards import write_dashboards

        return write_dashboards(config)
    from vit.compare import compare

    return compare(config)


if __name__ == "__main__":
    door(main, CompareConfig)
