"""Export a checkpoint for other runtimes:  python -m vit.export checkpoints/multi_head --format=onnx

The file takes any number of images at once: uint8 pixels (N, 3, S, S) as they are stored, or with
`--preprocess=false` float32 images that `model.preprocess` made. It gives logits (N, classes).
"""

import importlib.util
import io
import json
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from vit import checkpoint, data
from vit.checks import UsageError
from vit.cli import door
from vit.commands import ExportConfig
from vit.files import atomic
from vit.model import VisionTransformer
from vit.preprocess import Preprocess
from vit.terminal import say

SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}
BATCHES = (1, 100)  # sizes at which a file is compared with the model
TOLERANCE = 1e-4

Run = Callable[[Tensor], Tensor]


class Whole(nn.Module):
    """A model behind its normalisation: uint8 pixels (N, 3, S, S) in, logits out."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.model = model
        description = checkpoint.description_of(model)
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(description[name]).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.model((images.float() / 255 - self.mean) / self.std)


def main(config: ExportConfig) -> dict[str, Any]:
    """Write the file, after comparing what it computes with the model on real test images.

    Returns:
        The file, its format and size, and the largest difference of a logit.

    Raises:
        UsageError: no checkpoint, a package is missing, the file exists already, or it computes something else.
    """
    if config.format == "onnx":
        need("onnx", "onnxscript", "onnxruntime")
    model = checkpoint.load(config.checkpoint)
    name = re.sub(r"[^\w.-]", "-", checkpoint.name_of(model))
    path = Path(config.output or name + SUFFIX[config.format])
    check_free(path)
    _, (images, _) = data.load(config.data.root)
    content = EXPORT[config.format](model, config.preprocess)
    difference = compare(RUN[config.format](content), model, images, config.preprocess)
    if not difference <= TOLERANCE:
        raise UsageError(f"{path}: not written: logits differ by {difference:.1e}, more than {TOLERANCE:g}")
    check_free(path)
    with atomic(path) as part:
        part.write_bytes(content)
    say(f"{path}: {len(content):,} bytes; logits of {sum(BATCHES)} test images differ by at most {difference:.1e}")
    return {
        "file": str(path),
        "format": config.format,
        "preprocess": config.preprocess,
        "bytes": len(content),
        "largest_difference": difference,
    }


def need(*packages: str) -> None:
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        raise UsageError(f"format: the package {missing[0]} is not installed: pip install {' '.join(packages)}")


def check_free(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise UsageError(f"output: {path} exists already; choose another --output")
    if not path.parent.is_dir():
        raise UsageError(f"output: {path.parent} is not a folder")


def example(model: VisionTransformer, preprocess: bool) -> tuple[nn.Module, Tensor, dict[str, str]]:
    """What to export, an input for it, and what a user of the file must know."""
    description = checkpoint.description_of(model)
    known = {key: json.dumps(description[key]) for key in ("labels", "mean", "std")}
    known["input"] = "uint8 pixels" if preprocess else "pixels / 255, minus mean, over std"
    size = model.config.image_size
    images = torch.zeros(3, model.config.channels, size, size, dtype=torch.uint8)  # 0 and 1 would be taken as fixed
    return (Whole(model).eval(), images, known) if preprocess else (model, images.float(), known)


def export_torch(model: VisionTransformer, preprocess: bool) -> bytes:
    """The content of a .pt2 file, for `torch.export.load`; labels are in its extra file `labels`."""
    module, images, known = example(model, preprocess)
    program = torch.export.export(module, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=known)
    return buffer.getvalue()


def export_onnx(model: VisionTransformer, preprocess: bool) -> bytes:
    """The content of an .onnx file: input `images`, output `logits`, labels as JSON in its metadata."""
    module, images, known = example(model, preprocess)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program = torch.onnx.export(
            module,
            (images,),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(known)
    return program.model_proto.SerializeToString()


def run_torch(content: bytes) -> Run:
    return torch.export.load(io.BytesIO(content)).module()


def run_onnx(content: bytes) -> Run:
    """ONNX Runtime on the CPU, with as many threads as PyTorch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


EXPORT = {"onnx": export_onnx, "torch": export_torch}
RUN = {"onnx": run_onnx, "torch": run_torch}


@torch.inference_mode()
def compare(run: Run, model: VisionTransformer, images: Tensor, preprocess: bool) -> float:
    """The largest difference of a logit between a file and its model, over batches of several sizes."""
    largest = 0.0
    for batch in images[: sum(BATCHES)].split(BATCHES):
        pixels = cast(Preprocess, model.preprocess).pixels(batch)  # of the model's size
        prepared = model.preprocess(pixels)
        logits = run(pixels.contiguous() if preprocess else prepared)
        if not logits.isfinite().all():
            return math.inf  # NaN is larger than nothing
        largest = max(largest, (logits - model(prepared)).abs().max().item())
    return largest


if __name__ == "__main__":
    door(main, ExportConfig)
