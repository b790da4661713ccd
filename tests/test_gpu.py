"""What holds on a CUDA GPU alone; skipped where there is none. No data set is needed."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from vit.augment import augment
from vit.config import AugmentConfig, Config, OptimConfig, TrainConfig, ViTConfig
from vit.evaluation import evaluate
from vit.meters import Clock
from vit.parallel import Team
from vit.stepper import Stepper

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
CUDA = torch.device("cuda", 0)


def config(precision: str = "fp32", compile: bool = False, seed: int = 0, **model: Any) -> Config:
    """12 steps with everything random switched on, the first six of a window."""
    settings = Config(
        seed=seed,
        model=ViTConfig(**({"dim": 64, "depth": 2, "heads": 4, "drop_path": 0.2} | model)),
        augment=AugmentConfig(cutout=8, erasing=0.3, mixup=0.4, policy="trivialaugment"),
        optim=OptimConfig(ema=0.9),
        train=TrainConfig(epochs=2, batch_size=50, window=16, window_share=0.5, precision=precision, compile=compile),
    )
    settings.augment.cutmix = 1.0  # refused with a window for its labels, which do not matter here
    return settings


@pytest.fixture(scope="module")
def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (300, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return pixels.to(CUDA), torch.randint(0, 10, (300,), generator=generator).to(CUDA)


def take(stepper: Stepper, steps: int = 12) -> dict[str, Any]:
    """Take so many steps and return what there is then, in memory of its own."""
    with stepper.stream:
        taking = stepper.take_steps([])
        next(taking)
        for _ in range(steps):
            next(taking)
        torch.cuda.synchronize()
        return copy.deepcopy(stepper.state())


def open_stepper(images: Any, **settings: Any) -> Stepper:
    """With the initial weights of seed 0, whatever the seed of the steps is."""
    weights = Stepper(config(), CUDA, images, Team()).model.state_dict()
    return Stepper(config(**settings), CUDA, images, Team(), weights)


def apart(a: dict[str, Any], b: dict[str, Any], start: dict[str, Any]) -> float:
    """How far the weights of two states are from each other, as a part of the way from the start to the first."""

    def length(these: dict[str, Any], those: dict[str, Any]) -> float:
        return sum(float((these[key] - those[key]).double().square().sum()) for key in these) ** 0.5

    return length(a["model"], b["model"]) / length(a["model"], start["model"])


class TestSteps:
    """Two runs of the same steps may differ by rounding, which Adam's division enlarges; other steps end elsewhere."""

    @pytest.fixture(scope="class")
    def start(self, images: Any) -> dict[str, Any]:
        return copy.deepcopy(open_stepper(images).state())

    @pytest.fixture(scope="class")
    def expected(self, images: Any) -> dict[str, Any]:
        plain = open_stepper(images)
        plain.graphs = {}
        return take(plain)

    def test_other_random_numbers_end_elsewhere(self, images: Any, expected: Any, start: Any) -> None:
        """What the bounds below are to be seen against."""
        assert apart(expected, take(open_stepper(images, seed=1)), start) > 0.5

    def test_replayed_steps_are_the_steps(self, images: Any, expected: Any, start: Any) -> None:
        """The captured graph draws the same random numbers, follows the learning rate, and ends at the same weights."""
        replayed = take(open_stepper(images))
        assert apart(expected, replayed, start) < 0.1
        assert replayed["meter"]["sums"] == pytest.approx(expected["meter"]["sums"], rel=1e-3)

    @pytest.mark.parametrize("step", [5, 7, 11])
    def test_resumed_steps_are_the_steps(self, images: Any, expected: Any, start: Any, step: int) -> None:
        """A state saved in the graph of a window, before there is one of whole images, or in that, goes on to the
        weights of a run that was never stopped."""
        resumed = open_stepper(images)
        resumed.restore(take(open_stepper(images), steps=step))
        assert apart(expected, take(resumed, steps=12 - step), start) < 0.1

    def test_models_side_by_side_are_as_alone(self, images: Any, expected: Any, start: Any) -> None:
        """Each on a stream of its own, with a graph and random numbers of its own."""
        alone = [expected, take(open_stepper(images, seed=1))]
        together = [open_stepper(images, seed=seed) for seed in (0, 1)]
        taking = [stepper.take_steps([]) for stepper in together]
        for _ in range(13):
            for stepper, steps in zip(together, taking, strict=True):
                with stepper.stream:
                    next(steps)
        torch.cuda.synchronize()
        for each, stepper in zip(alone, together, strict=True):
            assert apart(each, stepper.state(), start) < 0.1


def gradients(stepper: Stepper, windowed: bool) -> torch.Tensor:
    """Of one batch, or of a window of its images, all of them in a row."""
    torch.manual_seed(0)
    x, targets = augment(stepper.images[:50], stepper.labels[:50], 10, stepper.config.augment)
    with stepper.stream, stepper.autocast:
        F.cross_entropy(stepper.model(x, places=stepper.places(windowed, 50)).float(), targets).backward()
    torch.cuda.synchronize()
    return torch.cat([each.grad.flatten() for each in stepper.model.parameters() if each.grad is not None])


@pytest.mark.parametrize(
    ("settings", "bound"),
    [({"compile": True}, 1e-3), ({"precision": "bf16"}, 0.05), ({"precision": "bf16", "compile": True}, 0.05)],
)
@pytest.mark.parametrize("heads", [1, 8])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("windowed", [False, True])
def test_gradients_are_those_of_float32(
    images: Any, heads: int, biased: bool, windowed: bool, settings: dict[str, Any], bound: float
) -> None:
    """Whatever kernels compiling, bfloat16, a relative bias and the width of a head bring in."""
    model = {"heads": heads, "relative_bias": biased, "drop_path": 0.0}
    expected = gradients(open_stepper(images, **model), windowed)
    found = gradients(open_stepper(images, **model, **settings), windowed)
    assert (found - expected).norm() < bound * expected.norm()


@pytest.mark.parametrize("biased", [False, True])
def test_a_compiled_step_is_replayed(images: Any, biased: bool) -> None:
    stepper = open_stepper(images, compile=True, relative_bias=biased)
    state = take(stepper)
    assert [stepper.graphs[windowed].calls for windowed in (True, False)] == [6, 6]
    assert all(torch.isfinite(value).all() for value in state["model"].values())


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
