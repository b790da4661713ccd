"""What holds on a CUDA GPU alone; skipped where there is none. No data set is needed."""

import copy
from typing import Any

import pytest
import torch

from vit.config import AugmentConfig, Config, OptimConfig, TrainConfig, ViTConfig
from vit.evaluation import evaluate
from vit.meters import Clock
from vit.parallel import Team
from vit.stepper import Stepper

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
CUDA = torch.device("cuda", 0)


def config(precision: str = "fp32", compile: bool = False, seed: int = 0, **model: Any) -> Config:
    """12 steps with everything random switched on."""
    return Config(
        seed=seed,
        model=ViTConfig(**({"dim": 64, "depth": 2, "heads": 4, "drop_path": 0.2} | model)),
        augment=AugmentConfig(cutout=8, erasing=0.3, mixup=0.4, cutmix=1.0, policy="trivialaugment"),
        optim=OptimConfig(ema=0.9),
        train=TrainConfig(epochs=2, batch_size=50, precision=precision, compile=compile),
    )


@pytest.fixture(scope="module")
def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (300, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return pixels.to(CUDA), torch.randint(0, 10, (300,), generator=generator).to(CUDA)


def train(stepper: Stepper, steps: int = 12) -> dict[str, Any]:
    """Take so many steps and return what there is then, in memory of its own."""
    with stepper.stream:
        taking = stepper.take_steps([])
        next(taking)
        for _ in range(steps):
            next(taking)
        torch.cuda.synchronize()
        return copy.deepcopy(stepper.state())


def distance(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Between the weights of two states, relative to their length."""
    apart = sum(float((a["model"][key] - b["model"][key]).double().square().sum()) for key in a["model"])
    length = sum(float(value.double().square().sum()) for value in a["model"].values())
    return float((apart / length) ** 0.5)


def test_replayed_steps_are_the_steps(images: Any) -> None:
    """The captured graph draws the same random numbers, follows the learning rate, and ends at the same weights."""
    plain = Stepper(config(), CUDA, images, Team())
    plain.graph = None
    expected = train(plain)
    replayed = train(Stepper(config(), CUDA, images, Team()))
    assert distance(expected, replayed) < 0.05
    assert replayed["window"]["sums"] == pytest.approx(expected["window"]["sums"], rel=1e-3)
    assert distance(expected, train(Stepper(config(seed=1), CUDA, images, Team()))) > 0.1


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_precision_and_head_counts(images: Any, heads: int) -> None:
    """bfloat16 with its own attention kernels ends near float32, whatever the width of a head."""
    single, half = (
        train(Stepper(config(precision, heads=heads), CUDA, images, Team())) for precision in ("fp32", "bf16")
    )
    assert distance(single, half) < 0.1
    assert half["window"]["sums"][0] == pytest.approx(single["window"]["sums"][0], rel=0.01)


def test_compiled_steps_are_the_steps(images: Any) -> None:
    plain, compiled = (train(Stepper(config(compile=each), CUDA, images, Team())) for each in (False, True))
    assert compiled["window"]["sums"][0] == pytest.approx(plain["window"]["sums"][0], rel=1e-3)
    assert distance(plain, compiled) < 0.2


def test_resumed_steps_are_the_steps(images: Any) -> None:
    """A state saved after 7 steps, in the graph already, goes on to the weights of a run that was never stopped."""
    expected = train(Stepper(config(), CUDA, images, Team()))
    halfway = train(Stepper(config(), CUDA, images, Team()), steps=7)
    resumed = Stepper(config(), CUDA, images, Team())
    resumed.restore(halfway)
    assert distance(expected, train(resumed, steps=5)) < 0.05


def test_models_side_by_side_are_as_alone(images: Any) -> None:
    """Each on a stream of its own, with a graph and random numbers of its own."""
    alone = [train(Stepper(config(seed=seed), CUDA, images, Team())) for seed in (0, 1)]
    together = [Stepper(config(seed=seed), CUDA, images, Team()) for seed in (0, 1)]
    taking = [stepper.take_steps([]) for stepper in together]
    for _ in range(13):
        for stepper, steps in zip(together, taking, strict=True):
            with stepper.stream:
                next(steps)
    torch.cuda.synchronize()
    for expected, stepper in zip(alone, together, strict=True):
        assert distance(expected, stepper.state()) < 0.05


def test_evaluation_is_the_cpus(images: Any) -> None:
    stepper = Stepper(config(), CUDA, images, Team())
    there = evaluate(stepper.model, *images, 100, stepper.autocast)
    here = evaluate(
        copy.deepcopy(stepper.model).cpu(), *(each.cpu() for each in images), 100, torch.autocast("cpu", enabled=False)
    )
    assert there.loss == pytest.approx(here.loss, rel=1e-3)
    assert torch.allclose(there.probabilities, here.probabilities, atol=1e-3)


def test_energy_grows_with_work() -> None:
    clock = Clock(CUDA)
    clock.start()
    if clock.meter is None:
        pytest.skip("no energy counter")
    a = torch.randn(8192, 8192, device=CUDA)
    for _ in range(50):
        a @ a
    clock.lap()
    assert clock.joules is not None
    assert clock.joules / clock.seconds > 20  # watts
