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
    """Of the shape d128, depth 4, beside every peer, and beside the fastest peer where all are compiled."""
    found = speeds(root)
    lines = []
    for task, title in TASKS.items():
        for precision, precisely in PRECISIONS.items():
            for heads in (1, 4):
                shape = (task, precision, 128, heads)
                eager = [found.get((*shape, library, "no")) for library in ("ours", *PEERS)]
                peers = [found[key] for library in PEERS if (key := (*shape, library, "yes")) in found]
                cells = [*eager, found[(*shape, "ours", "yes")], max(peers)]
                lines.append(
                    [f"{title}, {precisely}", str(heads), *("" if each is None else f"{each:.0f}" for each in cells)]
                )
    return table(["", "heads", "ours", *PEERS, "ours compiled", "best peer compiled"], lines)


def against_peers(root: Path) -> str:
    found = speeds(root)

    def faster(
        task: str, precision: str, dim: int, heads: int, one: str = "ours", other: str = "timm", compiled: str = "no"
    ) -> float:
        """How many times as fast `one` is, both compiled or neither; it has to be faster."""
        shape = task, precision, dim, heads
        ratio = found[*shape, one, compiled] / found[*shape, other, compiled]
        return ahead(f"{one} is faster than {other} ({task}, {precision}, d{dim}, {heads} heads)", ratio)

    def lead(task: str, dim: int, heads: int) -> str:
        return percent(faster(task, "bf16", dim, heads, "vit-pytorch", "ours"))

    def percent(ratio: float) -> str:
        return f"{100 * (ratio - 1):.0f}"

    pipeline = [faster("pipeline", "fp32", 128, heads) for heads in (1, 4)]
    step = [faster("train", "fp32", 128, heads) for heads in (1, 4)]
    return paragraph(f"""
        From stored images to updated weights, ours is {faster("pipeline", "bf16", 128, 1):.1f} (one head) and
        {faster("pipeline", "bf16", 128, 4):.1f} times (four) as fast in bfloat16, the default on such a CPU, as timm's
        model behind an ordinary DataLoader, and {span(pipeline, ".1f")} times in float32. A float32 training step alone
        is only {span(step, ".2f")} times as fast as timm's, and {faster("train", "fp32", 192, 3):.2f} times at d192,
        depth 6: both spend most of it in the same matrix products. Most of the lead in bfloat16 is timm's slow step
        there: of vit-pytorch's SimpleViT, which leaves out the biases of its attention, ours is ahead with four heads
        by {percent(faster("train", "bf16", 128, 4, other="vit-pytorch"))} % in a training step
        ({percent(faster("train", "bf16", 128, 4, other="vit-pytorch", compiled="yes"))} % where both are compiled), and
        behind it with one head, by {lead("train", 128, 1)} % (training) and {lead("infer", 128, 1)} % (inference), and
        at d192 with three, by {lead("train", 192, 3)} and {lead("infer", 192, 3)} %.""")


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
