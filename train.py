"""Train a Vision Transformer on CIFAR-10:  python train.py --config configs/quickstart.yaml --model.heads=1"""

from typing import Any

from vit.cli import door
from vit.config import Config


def main(config: Config) -> dict[str, Any]:
    from vit.runs import train  # PyTorch is imported only once the settings are known to be good

    return train(config)


if __name__ == "__main__":
    door(main, Config)
