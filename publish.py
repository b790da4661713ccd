"""Publish the best weights of a finished run:  python publish.py runs/multi_head checkpoints/multi_head"""

from typing import Any

from vit.cli import door
from vit.commands import PublishConfig


def main(config: PublishConfig) -> dict[str, Any]:
    from vit.publish import publish

    return publish(config)


if __name__ == "__main__":
    door(main, PublishConfig)
