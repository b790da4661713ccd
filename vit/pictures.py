"""Pictures as they come, to plain RGB: from a file that may be anything, or from what Pillow has already opened."""

import glob
import io
import math
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile

from vit.checks import UsageError, one_line, shown
from vit.containers import excess

# Only these are tried, by content, whatever a file is called: none of them runs another program or holds a script.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
# What counts as a picture in a folder.
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
# Larger ones are refused before they are decoded: a few kilobytes can unpack to any size. Below Pillow's own limit.
MAX_PIXELS = 80_000_000
ORIENTATION = 0x0112  # in EXIF data
MAX_BYTES = 500_000_000
# Pixels that are enough of any picture: those of a larger one are averaged, as it becomes RGB, by as many rows at a
# time as have about so many. All in all a picture then takes the memory of its decoded pixels, at most 4 bytes each
# (320 MB) or what its format's decoder takes beside them (1.2 GB for WebP), and little more.
ENOUGH = 4_000_000
# Pillow's decoders in Python: two take any time or memory, whatever the size of the picture, another is slow.
UNBOUNDED, SLOW = {"bmp_rle": "run lengths", "ppm_plain": "text"}, ("ppm",)
# The other ways to store a TIFF are rare, decoded by code that prints of damage and does not fail, or bring in other
# formats with dangers of their own.
TIFF_COMPRESSIONS = {
    "raw": "none", "tiff_lzw": "LZW", "tiff_adobe_deflate": "Deflate", "tiff_deflate": "Deflate", "packbits": "PackBits"
}  # fmt: skip
MAX_TILE = 16_000_000  # pixels of a tile of a TIFF, which is decoded whole even where the picture is small
SCALE = ((numpy.arange(65536) * 255 + 32767) // 65535).astype(numpy.uint8)  # 16 bits to 8


class PictureError(UsageError):
    """A file that is no picture, or none that can be read; names the file and the reason."""


def open_picture(source: str | os.PathLike | BinaryIO | Image.Image) -> Image.Image:
    """The picture as RGB, upright, the first frame if it moves; one of many million pixels at a fraction of its size.

    Args:
        source: a path, a binary file object, or a PIL image.

    Raises:
        TypeError: something else than those.
        PictureError: not a picture in one of `FORMATS`, damaged, cut off, empty, not an ordinary file, or larger than
            `MAX_PIXELS` or `MAX_BYTES`.
    """
    if isinstance(source, Image.Image):
        return decode(source, getattr(source, "filename", "") or "picture", ours=False)
    if not isinstance(source, (str, os.PathLike)):
        if not hasattr(source, "read"):
            kinds = "a path, a file object, a PIL image, a uint8 array or tensor"
            raise TypeError(f"expected {kinds}, got {type(source).__name__}")
        return read(source, str(getattr(source, "name", "picture")))
    name = os.fspath(source)
    try:
        found = os.stat(source)
        # Opening a pipe would wait for a writer, opening a device may do anything.
        if not stat.S_ISREG(found.st_mode):
            raise PictureError(f"{name}: {'a folder' if stat.S_ISDIR(found.st_mode) else 'not an ordinary file'}")
        if found.st_size == 0:
            raise PictureError(f"{name}: the file is empty")
        if found.st_size > MAX_BYTES:
            raise PictureError(f"{name}: larger than {MAX_BYTES // 10**6} MB")
        file = open(source, "rb")  # noqa: SIM115 - closed below
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise PictureError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    with file:
        return read(file, name)


def read(file: BinaryIO, name: str) -> Image.Image:
    if not getattr(file, "seekable", lambda: False)():
        file = io.BytesIO(file.read())
    if found := excess(file):
        raise PictureError(f"{name}: {found}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damage that Pillow can live with, and of sizes that `decode` refuses
        try:
            image = Image.open(file, formats=FORMATS)
        except Image.UnidentifiedImageError:
            raise PictureError(f"{name}: not a picture of a known format ({', '.join(FORMATS)})") from None
        except Image.DecompressionBombError:
            raise too_large(name) from None
        except Exception as error:  # anything, from struct.error to IndexError, comes out of damaged headers
            raise PictureError(f"{name}: damaged ({one_line(error)})") from error
        with image:
            check_codecs(image, name)
            if isinstance(image, TiffImageFile):
                check_tiff(image, name)
            return decode(image, name)


def check_codecs(image: Image.Image, name: str) -> None:
    for codec, *_ in getattr(image, "tile", []):
        if codec in UNBOUNDED:
            raise PictureError(f"{name}: a {image.format} stored as {UNBOUNDED[codec]}, which is not read")
        if codec in SLOW and image.width * image.height > ENOUGH:
            raise PictureError(
                f"{name}: a {image.format} of unusual depth and more than {ENOUGH // 10**6} million pixels"
            )


def check_tiff(image: TiffImageFile, name: str) -> None:
    """Refuse what its decoder would take too much for, or not be able to refuse itself."""
    compression = str(image.info.get("compression"))
    if compression not in TIFF_COMPRESSIONS:
        known = ", ".join(dict.fromkeys(TIFF_COMPRESSIONS.values()))
        raise PictureError(f"{name}: a TIFF compressed as {compression}, expected {known}")
    sides = [image.tag_v2.get(tag, 1) for tag in (TILEWIDTH, TILELENGTH)]
    if not all(isinstance(side, int) for side in sides) or math.prod(sides) > MAX_TILE:
        raise PictureError(f"{name}: a TIFF with tiles of more than {MAX_TILE // 10**6} million pixels")


def decode(image: Image.Image, name: str, ours: bool = True) -> Image.Image:
    """As RGB. What is not `ours` stays as large as it is."""
    width, height = image.size
    if width * height == 0:
        raise PictureError(f"{name}: has no pixels ({width} x {height})")
    if width * height > MAX_PIXELS:
        raise too_large(name)
    try:
        return to_rgb(image, ours)
    except Image.DecompressionBombError:
        raise too_large(name) from None
    except Exception as error:  # as above, from damaged or missing data
        raise PictureError(f"{name}: damaged or not supported ({one_line(error)})") from error


def to_rgb(image: Image.Image, ours: bool) -> Image.Image:
    """Turned as its EXIF data say, and made smaller by a whole number if it has 4 times `ENOUGH` pixels or more.

    Raises:
        ValueError: pixels of no known scale (floating point, or integers beyond 16 bits).
    """
    if ours and (factor := math.isqrt(image.width * image.height // ENOUGH)):
        image.draft(None, (image.width // factor, image.height // factor))  # JPEG can be decoded smaller
    image.load()  # which turns TIFF
    turn, orientation = Image.Exif(), image.getexif().get(ORIENTATION)
    turn[ORIENTATION] = orientation if orientation in range(2, 9) else 1
    factor = max(math.isqrt(image.width * image.height // ENOUGH), 1)
    small = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    rows = max(ENOUGH // (image.width * factor), 1) * factor
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        small.paste(plain(strip).reduce(factor), (0, top // factor))
    small.info["exif"] = turn.tobytes()
    return ImageOps.exif_transpose(small)


def plain(image: Image.Image) -> Image.Image:
    """RGB of any mode: 16 bits scaled to 8, what is transparent laid on white; colour profiles are ignored."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known scale")
    if image.mode.startswith("I"):  # Pillow would clip them at 255
        values = numpy.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("integer pixels beyond 16 bits have no known scale")
        image = Image.fromarray(SCALE[values])
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def too_large(name: str) -> PictureError:
    return PictureError(f"{name}: more than {MAX_PIXELS // 10**6} million pixels")


def find_pictures(argument: str) -> Iterator[str]:
    """The files that an argument means, one at a time: itself, what a pattern matches, or the pictures in a folder.

    Folders are read to their depths, in the order of names, without hidden files, links to folders and files whose
    suffix is none of a picture; a file that is named itself is always given, whatever it is.

    Raises:
        PictureError: a pattern or a folder that gives nothing, what no file can be named, or, after all others, a
            folder that cannot be read.
    """
    if "\0" in argument:  # a picture on stdin, where names are expected
        raise PictureError(f"{shown(argument)}: not the name of a file")
    found = [argument]
    if glob.has_magic(argument) and not os.path.lexists(argument):
        found = sorted(glob.glob(argument))
        if not found:
            raise PictureError(f"{argument}: no file matches")
    for path in found:
        if not os.path.isdir(path):
            yield path
            continue
        count, unreadable = 0, list[OSError]()
        for folder, folders, files in os.walk(path, onerror=unreadable.append):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                    count += 1
                    yield os.path.join(folder, name)
        if unreadable:
            first = f"{unreadable[0].filename}: cannot be read ({unreadable[0].strerror})"
            raise PictureError(first + f", nor can {len(unreadable) - 1} other folders" * (len(unreadable) > 1))
        if not count:
            raise PictureError(f"{path}: no pictures in this folder")
