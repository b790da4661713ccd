"""What a trained model says of pictures: `model.predict`, and the steps of it that `predict.py` takes one by one."""

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, cast

import numpy
import torch
from torch import Tensor

from vit.checks import UsageError
from vit.device import autocast, images_per_pass
from vit.evaluation import evaluating
from vit.preprocess import Preprocess

if TYPE_CHECKING:
    from vit.model import VisionTransformer

Item = TypeVar("Item")


class Prediction(TypedDict):
    """A class and its probability, as Hugging Face's pipelines name them."""

    label: str
    score: float


def predict(
    model: "VisionTransformer", images: Any, topk: int = 5, batch_size: int | None = None
) -> list[Prediction] | list[list[Prediction]]:
    """`VisionTransformer.predict`, which says what it takes and gives."""
    for name, value in (("topk", topk), ("batch_size", 1 if batch_size is None else batch_size)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}: expected a whole number above 0, got {value!r}")
    if not model.labels:
        raise ValueError("the model has no class names: set its labels and preprocess, as vit.load does")
    if isinstance(images, (Tensor, numpy.ndarray)) and images.ndim == 4:
        images = list(cast(Preprocess, model.preprocess).pixels(images))
    if not isinstance(images, (list, tuple)):
        return predict(model, [images], topk, batch_size)[0]  # type: ignore[return-value]
    answers = []
    for batch in batches(images, batch_size or default_batch_size(model)):
        probabilities = classify(model, torch.cat([to_pixels(model, image) for image in batch]))
        answers += [ranked(row, model.labels, topk) for row in probabilities]
    return answers


def to_pixels(model: "VisionTransformer", image: Any) -> Tensor:
    """Uint8 (1, 3, size, size) on the CPU of one image in any form."""
    pixels = cast(Preprocess, model.preprocess).pixels(image)
    if len(pixels) != 1:
        raise ValueError(f"expected one image in each place of the list, got a batch of {len(pixels)}")
    return pixels.cpu()


@torch.inference_mode()
def classify(model: "VisionTransformer", pixels: Tensor) -> Tensor:
    """Probabilities float64 (B, classes) on the CPU of uint8 (B, 3, size, size), computed as eval.py does.

    Raises:
        UsageError: they are no numbers, as the weights are too large.
    """
    device = next(model.parameters()).device
    with evaluating(model), autocast(model.precision, device):
        logits = model(model.preprocess(pixels.to(device))).float().cpu()
    if not logits.isfinite().all():
        raise UsageError("the model's logits are NaN or infinite: its weights are too large")
    return logits.double().softmax(dim=1)


def ranked(probabilities: Tensor, labels: tuple[str, ...], topk: int) -> list[Prediction]:
    """The `topk` most probable of all classes, or all if there are fewer; of equal ones the first in `labels` leads."""
    scores, order = probabilities.sort(descending=True, stable=True)
    best = zip(scores[:topk].tolist(), order[:topk].tolist(), strict=True)
    return [{"label": labels[index], "score": score} for score, index in best]


def default_batch_size(model: "VisionTransformer") -> int:
    """Images per forward pass, those of eval.py: in bfloat16 a batch of another size can round differently."""
    device = next(model.parameters()).device
    return model.eval_batch_size or images_per_pass(device, model.config.tokens)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last of what is left; no more than one list is drawn ahead."""
    rest = iter(items)
    while batch := list(itertools.islice(rest, size)):
        yield batch
