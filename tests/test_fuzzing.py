"""Damaged pictures neither crash nor hang: each is opened, or refused by name."""

import io
import random
import time
from pathlib import Path
from typing import Any

from PIL import Image

from vit.pictures import MAX_PIXELS, PictureError, open_picture


def mutate(content: bytes, other: bytes, draw: random.Random) -> bytes:
    """Bytes changed, cut off, cut out, repeated or taken from another file, most often near the start."""
    for _ in range(draw.randint(1, 4)):
        start = int(len(content) * draw.random() ** 3)
        length = draw.randint(1, 64)
        kind = draw.choice(["change", "change", "cut off", "cut out", "repeat", "splice"])
        if kind == "change":
            changed = bytearray(content)
            for place in range(start, min(start + draw.randint(1, 8), len(content))):
                changed[place] = draw.choice([0, 255, 127, 128, changed[place] ^ (1 << draw.randrange(8))])
            content = bytes(changed)
        elif kind == "cut off":
            content = content[: draw.randint(0, len(content))]
        elif kind == "cut out":
            content = content[:start] + content[start + length :]
        elif kind == "repeat":
            content = content[: start + length] + content[start:]
        else:
            content = content[:start] + other[start:]
    return content


def test_a_thousand_damaged_files_give_a_picture_or_a_clear_line(cifar: tuple, tmp_path: Path) -> None:
    draw = random.Random(0)
    images = cifar[1][0]
    originals = []
    for number in range(70):
        image = Image.fromarray(images[number].permute(1, 2, 0).numpy())
        name = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")[number % 7]
        options: dict[str, Any] = {"compression": "tiff_lzw"} if name == "TIFF" and number % 4 == 1 else {}
        if name in ("JPEG", "PNG", "WEBP"):
            options["exif"] = Image.Exif()
            options["exif"][0x0112] = number % 9
        if name == "GIF":
            options |= {"save_all": True, "append_images": [image.rotate(90)]}
        buffer = io.BytesIO()
        image.save(buffer, name, **options)
        originals.append(buffer.getvalue())
    opened, refused, slowest, lines = 0, 0, 0.0, []
    path = tmp_path / "fuzzed"
    for number in range(1000):
        content = mutate(originals[number % 70], draw.choice(originals), draw)
        path.write_bytes(content)
        started = time.process_time()
        try:
            image = open_picture(path)
        except PictureError as error:
            refused += 1
            lines.append(str(error))
        else:
            opened += 1
            assert image.mode == "RGB"
            assert 0 < image.width * image.height <= MAX_PIXELS
        slowest = max(slowest, time.process_time() - started)
    assert opened > 100
    assert refused > 100
    assert slowest < 5, slowest
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in lines)
