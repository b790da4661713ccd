"""How fast a step is, from the csv files of benchmarks/results."""

from pathlib import Path

from studies import results
from tables import ahead, paragraph, read, span, table
from trained import config_of

TASKS = {"train": "training step", "infer": "inference", "pipeline": "stored images to updated weights"}
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}
PEERS = ("timm", "vit-pytorch", "Hugging Face")

# The two shapes that the page speaks of, by width: depth and images in a batch.
SHAPES = {"128": ("4", "250"), "192": ("6", "125")}

# Images per second by task, precision, dim, heads, library and "yes" or "no" for compiled.
Speeds = dict[tuple[str, str, int, int, str, str], float]


def speeds(root: Path) -> Speeds:
    """Of those shapes, at patch 4 and MLP ratio 4."""
    return {
        (
            row["task"], row["precision"], int(row["dim"]), int(row["heads"]), row["library"], row["compiled"]
        ): float(row["images_per_second"])
        for row in read(root / "benchmarks/results/throughput.csv")
        if (row["depth"], row["batch_size"]) == SHAPES.get(row["dim"])
        and (row["patch_size"], row["mlp_ratio"]) == ("4", "4.0")
    }  # fmt: skip


def throughput(root: Path) -> str:
    """Of the shape d128, depth 4, beside every peer, and compiled beside the fastest peer, compiled or not."""
    found = speeds(root)
    lines = []
    for task, title in TASKS.items():
        for precision, precisely in PRECISIONS.items():
            for heads in (1, 4):
                shape = (task, precision, 128, heads)
                eager = [found.get((*shape, library, "no")) for library in ("ours", *PEERS)]
                peers = [found[key] for peer in PEERS for how in ("yes", "no") if (key := (*shape, peer, how)) in found]
                cells = [*eager, found[(*shape, "ours", "yes")], max(peers)]
                lines.append(
                    [f"{title}, {precisely}", str(heads), *("" if each is None else f"{each:.0f}" for each in cells)]
                )
    return table(["", "heads", "ours", *PEERS, "ours compiled", "best peer, compiled or not"], lines)


def against_peers(root: Path) -> str:
    """Ours over a peer of the shape d128, depth 4, neither compiled, and where a peer is ahead at d192."""
    found = speeds(root)

    def faster(task: str, precision: str, dim: int, heads: int, peer: str) -> float:
        shape = task, precision, dim, heads
        return found[*shape, "ours", "no"] / found[*shape, peer, "no"]

    lines = [
        [f"{TASKS[task]}, {PRECISIONS[precision]}", peer]
        + [f"{faster(task, precision, 128, heads, peer):.2f}" for heads in (1, 4)]
        for task, precision, peer in (
            ("pipeline", "bf16", "timm"), ("pipeline", "fp32", "timm"), ("train", "bf16", "timm"),
            ("train", "fp32", "timm"), ("train", "bf16", "vit-pytorch"), ("infer", "bf16", "vit-pytorch"),
        )
    ]  # fmt: skip
    ahead_of_ours = {
        task: ahead(f"vit-pytorch is faster at d192 ({task})", 1 / faster(task, "bf16", 192, 3, "vit-pytorch"))
        for task in ("train", "infer")
    }
    training, inference = (f"{100 * (ratio - 1):.0f} %" for ratio in ahead_of_ours.values())
    text = paragraph(f"""
        bfloat16 is the default on such a CPU. timm's pictures come through an ordinary DataLoader. vit-pytorch's
        SimpleViT leaves out the biases of its attention; at width 192 with three heads it is ahead too, by {training}
        (training) and {inference} (inference). In float32 most of a step is the same matrix products.""")
    return f"{table(['', 'peer', 'one head', 'four heads'], lines)}\n\n{text}"


def export_latency(root: Path) -> str:
    """Milliseconds of a call, of the model itself and of what it was exported to."""
    rows = read(root / "benchmarks/results/export.csv")
    time = {(row["batch_size"], row["what"]): float(row["milliseconds"]) for row in rows}
    sizes = list(dict.fromkeys(row["batch_size"] for row in rows))
    names = list(dict.fromkeys(row["what"] for row in rows))
    lines = [[size, *(f"{time[size, name]:.1f}" for name in names)] for size in sizes]
    return table(["images", *(f"{name}, milliseconds" for name in names)], lines)


def window(root: Path) -> str:
    """What a window of each image saves by the clock, and what the epochs cost that it pays for in FLOPs."""
    rows = read(root / "benchmarks/results/window.csv")
    compiled = {
        row["config"]: "compiled" if config_of(root, row["config"]).train.compile else "not compiled" for row in rows
    }
    each = " and ".join(
        f"{float(row['time_ratio']):.2f} (`{row['config']}`, {compiled[row['config']]})" for row in rows
    )
    flops = span([float(row["flops_ratio"]) for row in rows], ".2f")
    (steps,) = {row["rounds"] for row in rows}
    (machine,) = {f"{row['device']}, {row['precision']}" for row in rows}
    (quickstart,) = (float(row["time_ratio"]) for row in rows if row["config"] == "quickstart")
    study = results(root, "ablation").study
    recipe, with_window = (study.config(arm, {}).train for arm in ("recipe", "window"))
    share = with_window.window_share
    longer = with_window.epochs / recipe.epochs * (share * quickstart + 1 - share)
    return paragraph(f"""
        By the clock a step that sees a window takes {each} times as long as one that sees all, for {flops} of its FLOPs
        ({machine}, medians of {steps} steps in turn, `python benchmarks/window.py configs/quickstart.yaml
        configs/cpu_30min.yaml --rounds={steps} --results=benchmarks/results/window.csv`): so {with_window.epochs}
        epochs of the quickstart with a window take {longer:.2f} times as long as {recipe.epochs} without.""")


def scaling(root: Path) -> str:
    """What more heads cost at equal FLOPs, for both attention paths."""
    time = {
        (row["sweep"], row["path"], int(row["tokens"]), int(row["heads"])): float(row["microseconds_per_image"])
        for row in read(root / "benchmarks/results/scaling.csv")
    }

    def slower(sweep: str, path: str, tokens: int, heads: int) -> str:
        ratio = time[sweep, path, tokens, heads] / time[sweep, path, tokens, 1]
        return f"{ahead(f'{heads} heads take longer than one ({path}, {tokens} tokens)', ratio):.1f}"

    return paragraph(f"""
        What FLOPs do not show: at 1024 tokens a training step with four heads takes
        {slower("tokens", "flash", 1024, 4)} (flash kernel) or {slower("tokens", "products", 1024, 4)} times (plain
        products) as long as with one, at 64 tokens with 16 heads {slower("heads", "products", 64, 16)} (products) or
        {slower("heads", "flash", 64, 16)} times (flash), all at equal FLOPs (bfloat16, same machine).""")
