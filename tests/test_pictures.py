"""Pictures of every kind come out as the RGB that they show, and what is no picture is refused by name."""

import io
import math
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vit.checks import UsageError
from vit.pictures import FORMATS, MAX_PIXELS, PictureError, find_pictures, open_picture
from vit.preprocess import Preprocess

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)
ROOT = Path(__file__).parents[1]
Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(image: Image.Image, suffix: str = "png", **options: Any) -> Path:
        path = tmp_path / f"picture.{suffix}"
        image.save(path, **options)
        return path

    return write


def corners(image: Image.Image) -> list:
    """Pixels at the upper left, upper right, lower left, lower right."""
    x, y = image.width - 1, image.height - 1
    return [image.getpixel(place) for place in ((0, 0), (x, 0), (0, y), (x, y))]


def flag(mode: str = "RGB") -> Image.Image:
    """24 x 16, red, green, blue and grey in its quarters."""
    image = Image.new("RGB", (24, 16), RED)
    for colour, box in ((GREEN, (12, 0, 24, 8)), (BLUE, (0, 8, 12, 16)), (GREY, (12, 8, 24, 16))):
        image.paste(colour, box)
    return image.convert(mode)


class TestKinds:
    @pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "gif", "webp", "ppm", "jpg"])
    def test_formats(self, save: Save, suffix: str) -> None:
        options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
        image = open_picture(save(flag(), suffix, **options))
        assert (image.mode, image.size) == ("RGB", (24, 16))
        np.testing.assert_allclose(corners(image), [RED, GREEN, BLUE, GREY], atol=2)

    @pytest.mark.parametrize("suffix", ["png", "jpg"])
    def test_a_stream_is_read_once(self, save: Save, suffix: str) -> None:
        read, write = os.pipe()
        os.write(write, save(flag(), suffix).read_bytes())
        os.close(write)
        with open(read, "rb") as stream:
            assert open_picture(stream).size == (24, 16)

    def test_path_text_file_object_and_picture_are_the_same(self, save: Save) -> None:
        path = save(flag())
        expected = open_picture(path).tobytes()
        for source in (str(path), io.BytesIO(path.read_bytes()), Image.open(path)):
            assert open_picture(source).tobytes() == expected
        with pytest.raises(TypeError):
            open_picture(3)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("mode", "value", "shown"), [("1", 1, 255), ("L", 77, 77), ("CMYK", (0, 255, 255, 0), RED)]
    )
    def test_grey_and_print_colours(self, save: Save, mode: str, value: Any, shown: Any) -> None:
        path = save(Image.new(mode, (9, 5), value), "tiff")
        assert open_picture(path).getpixel((4, 2)) == (shown if mode == "CMYK" else (shown,) * 3)

    def test_cmyk_jpeg(self, save: Save) -> None:
        path = save(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "jpg", quality=100)
        np.testing.assert_allclose(open_picture(path).getpixel((4, 2)), RED, atol=3)

    @pytest.mark.parametrize(
        ("mode", "value", "shown"),
        [
            ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
            ("RGBA", (255, 0, 0, 255), RED),
            ("RGBA", (0, 0, 255, 51), (204, 204, 255)),
            ("LA", (0, 102), (153, 153, 153)),
        ],
    )
    def test_transparency_is_laid_on_white(self, save: Save, mode: str, value: tuple, shown: tuple) -> None:
        assert open_picture(save(Image.new(mode, (3, 3), value))).getpixel((1, 1)) == shown

    @pytest.mark.parametrize("suffix", ["png", "gif"])
    def test_palette_with_and_without_a_transparent_colour(self, save: Save, suffix: str) -> None:
        image = flag().quantize(8)
        assert corners(open_picture(save(image, suffix))) == [RED, GREEN, BLUE, GREY]
        hidden = image.getpixel((0, 0))
        shown = corners(open_picture(save(image, suffix, transparency=hidden)))
        assert shown == [(255, 255, 255), GREEN, BLUE, GREY]

    def test_grey_and_rgb_with_a_transparent_value(self, save: Save) -> None:
        assert open_picture(save(Image.new("L", (3, 3), 9), transparency=9)).getpixel((0, 0)) == (255,) * 3
        assert corners(open_picture(save(flag(), transparency=RED)))[0] == (255,) * 3

    @pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
    def test_16_bits_are_scaled_not_clipped(self, save: Save, suffix: str) -> None:
        values = np.array([[0, 257, 300, 32896, 65535]], dtype=np.uint16)
        image = open_picture(save(Image.fromarray(values), suffix))
        assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 1, 128, 255]

    def test_pixels_of_no_known_scale_are_refused(self, save: Save) -> None:
        for pixels in (np.ones((2, 2), np.float32), np.full((2, 2), 70000, np.int32), np.full((2, 2), -1, np.int32)):
            with pytest.raises(PictureError, match=r"picture\.tiff: .* no known scale"):
                open_picture(save(Image.fromarray(pixels), "tiff"))

    @pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
    def test_cameras_rotation(self, save: Save, suffix: str) -> None:
        """The quarters R G B K as stored, and as the eight values of EXIF's orientation say they are to be seen."""
        order = ["RGBK", "GRKB", "KBGR", "BKRG", "RBGK", "BRKG", "KGBR", "GKRB"]
        for orientation, seen in enumerate(order, 1):
            exif = Image.Exif()
            exif[0x0112] = orientation
            options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
            path = save(flag(), suffix, exif=exif, **options)
            image = open_picture(path)
            assert image.size == ((24, 16) if orientation < 5 else (16, 24))
            colours = dict(zip("RGBK", (RED, GREEN, BLUE, GREY), strict=True))
            np.testing.assert_allclose(corners(image), [colours[letter] for letter in seen], atol=2)
            assert open_picture(image).tobytes() == image.tobytes()  # and not once more
            with Image.open(path) as opened:
                assert open_picture(opened).tobytes() == image.tobytes()

    @pytest.mark.parametrize("suffix", ["gif", "webp", "tiff", "png"])
    def test_first_of_several_frames(self, save: Save, suffix: str) -> None:
        later = [Image.new("RGB", (24, 16), colour) for colour in (GREEN, BLUE)]
        options = {"lossless": True} if suffix == "webp" else {}
        path = save(Image.new("RGB", (24, 16), RED), suffix, save_all=True, append_images=later, **options)
        with Image.open(path) as opened:
            assert opened.n_frames == 3  # type: ignore[attr-defined]
        assert corners(open_picture(path)) == [RED] * 4

    def test_any_size_and_shape_gives_the_model_its_square(self) -> None:
        preprocess = Preprocess(32)
        for size in ((1, 1), (1, 3000), (5000, 2), (33, 31), (640, 480)):
            pixels = preprocess.pixels(Image.new("RGB", size, (10, 20, 30)))
            assert pixels.shape == (1, 3, 32, 32)
            assert pixels.amax(dim=(0, 2, 3)).tolist() == pixels.amin(dim=(0, 2, 3)).tolist() == [10, 20, 30]

    def test_a_callers_picture_stays_as_large_as_it_is(self, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vit.pictures.ENOUGH", 1000)
        with Image.open(save(flag().resize((240, 160)), "jpg")) as mine:
            assert open_picture(mine).size == (40, 27)
            assert mine.size == (240, 160)

    def test_making_small_averages(self) -> None:
        """Fine stripes become grey, where taking single pixels would make them black or white."""
        stripes = np.zeros((320, 320, 3), np.uint8)
        stripes[:, ::2] = 255
        assert abs(Preprocess(32).pixels(stripes).float() - 127.5).max() < 8

    @pytest.mark.parametrize("size", [(240, 160), (237, 151), (3, 5000)])
    def test_larger_pictures_are_averaged_by_rows_as_if_whole(
        self, save: Save, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        picture = Image.effect_noise(size, 90).convert("RGB")
        picture.paste(flag().resize((size[0] // 2 + 1, size[1] // 2 + 1)))
        monkeypatch.setattr("vit.pictures.ENOUGH", 1000)
        factor = math.isqrt(size[0] * size[1] // 1000)
        assert factor > 2
        assert open_picture(save(picture)).tobytes() == picture.reduce(factor).tobytes()
        exif = Image.Exif()
        exif[0x0112] = 6
        turned = picture.reduce(factor).transpose(Image.Transpose.ROTATE_270)
        assert open_picture(save(picture, exif=exif)).tobytes() == turned.tobytes()
        smooth = picture.resize((60, 40)).resize((1000, 600))
        jpeg = open_picture(save(smooth, "jpg", quality=95))
        expected = smooth.resize(jpeg.size, Image.Resampling.BOX)
        assert jpeg.width * jpeg.height < 16_000
        assert np.abs(np.asarray(jpeg, float) - np.asarray(expected, float)).mean() < 6

    def test_16_bits_are_scaled_exactly(self) -> None:
        values = np.arange(65536).reshape(256, 256)
        expected = (values * 255 + 32767) // 65535
        for dtype in (np.uint16, np.int32):
            assert (np.asarray(open_picture(Image.fromarray(values.astype(dtype))))[..., 0] == expected).all()


class TestRefused:
    def refuse(self, path: Path, message: str) -> None:
        started = time.monotonic()
        with pytest.raises(PictureError, match=message) as caught:
            open_picture(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert time.monotonic() - started < 5
        assert isinstance(caught.value, UsageError)

    def test_a_wrong_name_is_no_lie(self, save: Save) -> None:
        assert corners(open_picture(save(flag(), "jpg", format="PNG"))) == [RED, GREEN, BLUE, GREY]

    def test_what_is_no_file_to_read(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        self.refuse(tmp_path / "pipe", "not an ordinary file")
        self.refuse(Path("/dev/zero"), "not an ordinary file")
        self.refuse(tmp_path, "a folder")
        self.refuse(tmp_path / "none.png", "cannot be read .No such file")
        self.refuse(tmp_path / ("x" * 300), "cannot be read .File name too long")
        self.refuse(tmp_path / "a\0b", "cannot be read .embedded null")
        (tmp_path / "large.png").touch()
        os.truncate(tmp_path / "large.png", 500_000_001)  # which takes no space
        self.refuse(tmp_path / "large.png", "larger than 500 MB")
        (tmp_path / "circle").symlink_to(tmp_path / "circle")
        self.refuse(tmp_path / "circle", "cannot be read .Too many levels")

    def test_what_is_no_picture(self, tmp_path: Path) -> None:
        path = tmp_path / "cat.png"
        contents = {
            b"hello": "not a picture of a known format",
            b"": "the file is empty",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n": "not a picture",  # Pillow would start Ghostscript
            b"%PDF-1.4\n": "not a picture",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>": "not a picture",
            b"P6 0 0 255\n": "has no pixels|not a picture|damaged",
        }
        for content, message in contents.items():
            path.write_bytes(content)
            self.refuse(path, message)
        with pytest.raises(PictureError, match="picture: not a picture"):
            open_picture(io.BytesIO(b"hello"))
        with pytest.raises(PictureError, match="has no pixels"):
            open_picture(Image.new("RGB", (0, 4)))

    @pytest.mark.parametrize("name", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
    def test_cut_off_files(self, tmp_path: Path, name: str) -> None:
        assert name in FORMATS
        buffer = io.BytesIO()
        Image.effect_noise((64, 64), 90).convert("RGB").save(buffer, name)
        content = buffer.getvalue()
        path = tmp_path / "cut"
        for part in (0.02, 0.3, 0.6, 0.9):
            path.write_bytes(content[: int(len(content) * part)])
            self.refuse(path, "damaged|not a picture")

    def test_bombs_are_refused_before_they_are_decoded(self, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vit.pictures.to_rgb", lambda image: pytest.fail("decoded"))
        path = save(Image.new("1", (8, 8)))
        content = path.read_bytes()
        for side in (9000, 15000, 2**31 - 1):  # Pillow itself would say nothing, warn, refuse
            assert side**2 > MAX_PIXELS
            header = b"IHDR" + struct.pack(">II", side, side) + content[24:29]
            path.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])
            self.refuse(path, "more than 80 million pixels")

    @pytest.mark.parametrize("mode", ["I;16", "LA", "1", "P"])
    def test_the_largest_pictures_take_little_memory(self, save: Save, mode: str) -> None:
        """Just under the limit a file of some 100 KB holds 79 million pixels; 800 MB are enough to open it."""
        path = save(Image.new(mode, (8900, 8900)), compress_level=1)
        code = """if True:
            import resource, sys
            resource.setrlimit(resource.RLIMIT_AS, (800_000_000, 800_000_000))
            from vit.pictures import open_picture
            print(open_picture(sys.argv[1]).size)
        """
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-c", code, str(path)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert result.stdout == "(2225, 2225)\n", result.stderr

    def test_a_jpeg_of_very_many_parts(self, save: Save) -> None:
        """Each scan is a pass over all the pixels, and the time for segments grows with their square."""
        path = save(Image.effect_noise((64, 64), 90), "jpg", progressive=True)
        content = path.read_bytes()
        last = content[content.rindex(b"\xff\xda") : -2]
        path.write_bytes(content[:-2] + 100 * last + content[-2:])
        self.refuse(path, "more than 100 scans")
        path.write_bytes(content[:2] + 1000 * b"\xff\xe1\0\x09Exif\0\0a" + content[2:])
        self.refuse(path, "more than 1000 segments or 16 MB beside its pixels")
        path.write_bytes(content[:2] + 250 * (b"\xff\xe2\xff\xff" + bytes(65533)) + content[2:])
        self.refuse(path, "more than 1000 segments or 16 MB beside its pixels")

    def test_a_film_behind_a_jpeg_is_no_part_of_it(self, save: Save) -> None:
        """As phones put it there, with any bytes in it; nor are the bytes inside a segment."""
        path = save(Image.effect_noise((64, 64), 90), "jpg", comment=200 * b"\xff\xda")
        path.write_bytes(path.read_bytes() + 200 * b"\xff\xda\0\x02")
        assert open_picture(path).size == (64, 64)

    def test_a_gif_of_very_many_comments(self, save: Save) -> None:
        path = save(Image.new("P", (8, 8)), "gif")
        content = path.read_bytes()
        at = content.index(b"!") if b"!" in content else content.index(b",")
        path.write_bytes(content[:at] + 1000 * b"!\xfe\x01a\0" + content[at:])
        assert open_picture(path).size == (8, 8)
        path.write_bytes(content[:at] + 250_000 * b"!\xfe\x01a\0" + content[at:])
        self.refuse(path, "more than 1 MB before the first frame")

    def test_what_pillow_decodes_without_bounds(self, tmp_path: Path) -> None:
        path = tmp_path / "small"
        header = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 1082, 0, 0, 1078, 40, 64, 1, 1, 8, 1, 4, 0, 0, 0, 0)
        path.write_bytes(header + bytes(1024) + b"\0\2\0\xff")
        self.refuse(path, "a BMP stored as run lengths")
        path.write_bytes(b"P2 8 8 255\n" + b"#\n" * 1000)
        self.refuse(path, "a PPM stored as text")
        path.write_bytes(b"P5 4000 1001 1000\n" + bytes(2 * 4000 * 1001))
        self.refuse(path, "a PPM of unusual depth and more than 4 million pixels")

    def test_tiffs_that_a_decoder_cannot_refuse(self, save: Save, tmp_path: Path) -> None:
        for compression in ("group3", "group4", "jpeg"):
            mode = "L" if compression == "jpeg" else "1"
            path = save(Image.new(mode, (64, 64)), "tiff", compression=compression)
            self.refuse(path, f"a TIFF compressed as {compression}, expected none, LZW, Deflate, PackBits")
        # 64 x 64 pixels of one byte, in a tile of 65536 x 65536.
        sides = [(256, 64), (257, 64), (322, 65536), (323, 65536)]
        others = [(258, 8), (259, 1), (262, 1), (277, 1), (324, 8), (325, 4096)]
        tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(sides + others))
        path = tmp_path / "tile.tiff"
        path.write_bytes(struct.pack("<2sHIH", b"II", 42, 8, len(sides + others)) + tags + bytes(4 + 4096))
        self.refuse(path, "tiles of more than 16 million pixels")

    def test_damaged_pictures_that_pillow_holds(self, save: Save) -> None:
        path = save(flag(), "bmp")
        path.write_bytes(path.read_bytes()[:300])
        with pytest.raises(PictureError, match=r"picture\.bmp: damaged"):
            Preprocess(32)(Image.open(path))


class TestFinding:
    @pytest.fixture
    def tree(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        for name in ("b/2.PNG", "b/10.png", "a/x.jpg", "notes.txt", ".hidden.png", ".git/y.png", "z.webp", "empty/no"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "a" / "up").symlink_to(tmp_path)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def test_folders_to_their_depths_in_order(self, tree: Path) -> None:
        assert list(find_pictures(".")) == ["./z.webp", "./a/x.jpg", "./b/10.png", "./b/2.PNG"]

    def test_files_and_patterns(self, tree: Path) -> None:
        assert list(find_pictures("notes.txt")) == ["notes.txt"]  # named itself, so it is tried
        assert list(find_pictures("*/*.png")) == ["b/10.png"]
        assert list(find_pictures("[ab]")) == ["a/x.jpg", "b/10.png", "b/2.PNG"]
        (tree / "c[1].png").touch()
        assert list(find_pictures("c[1].png")) == ["c[1].png"]

    def test_what_gives_nothing_is_said(self, tree: Path) -> None:
        for argument, message in (("*.nothing", "no file matches"), ("empty", "no pictures in this folder")):
            with pytest.raises(PictureError, match=message):
                list(find_pictures(argument))

    def test_a_folder_that_cannot_be_read_is_named_after_the_others(
        self, tree: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        everything = list(find_pictures(str(tree)))
        closed = next(Path(path).parent for path in everything if Path(path).parent != tree)

        def scandir(path: str, scan: Callable = os.scandir) -> Any:
            if Path(path) == closed:
                raise PermissionError(13, "Permission denied", path)
            return scan(path)

        monkeypatch.setattr("os.scandir", scandir)
        found = []
        with pytest.raises(PictureError, match=f"{closed}: cannot be read .Permission denied"):
            found.extend(find_pictures(str(tree)))
        assert found == [path for path in everything if closed not in Path(path).parents]

    def test_one_at_a_time(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first file of a folder is given before the folders in it are read."""
        found = find_pictures(".")
        assert next(found) == "./z.webp"
        (tree / "b" / "0.png").touch()
        assert list(found) == ["./a/x.jpg", "./b/0.png", "./b/10.png", "./b/2.PNG"]
