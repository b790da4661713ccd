"""What W&B shows of an evaluation beside its numbers: pictures with answers, where heads look, the confusion matrix."""

from typing import Any

from PIL import Image
from torch import Tensor

from vit.evaluation import Evaluation
from vit.heads import attention, sheet
from vit.model import VisionTransformer

ANSWERED, LOOKED_AT = 24, 4  # how many of the split's first pictures


def evaluation_media(
    model: VisionTransformer, result: Evaluation, images: Tensor, labels: Tensor, split: str
) -> dict[str, Any]:
    """The media of a W&B row.

    Args:
        model: the evaluated one, as `vit.load` gives it.
        result: its evaluation on `images` uint8 (n, 3, H, W) and `labels` (n,).
    """
    import wandb

    names, predicted, labels = model.labels, result.probabilities.argmax(dim=1), labels.cpu()
    pictures, looks = [], []
    for index, image in enumerate(images[:ANSWERED].cpu()):
        guess, label = int(predicted[index]), int(labels[index])
        truth = "" if guess == label else f", truly {names[label]}"
        caption = f"{names[guess]} {result.probabilities[index].max().item():.0%}{truth}"
        large = image.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
        pictures.append(wandb.Image(large.permute(1, 2, 0).numpy(), caption=caption))
        if index < LOOKED_AT:
            picture = Image.fromarray(image.permute(1, 2, 0).numpy())
            page = sheet(picture, attention(model, image[None]), model.config.patches, caption)
            looks.append(wandb.Image(page, caption=caption))
    matrix = wandb.plot.confusion_matrix(y_true=labels.tolist(), preds=predicted.tolist(), class_names=list(names))
    return {f"{split}/predictions": pictures, f"{split}/attention": looks, f"{split}/confusion_matrix": matrix}
