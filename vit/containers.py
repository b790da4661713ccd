"""What a picture file is made of, counted before a decoder or Pillow sees it.

Their time grows with the square of some of it, so that a few megabytes keep them busy for hours. No real picture comes
near the limits.
"""

import re
from typing import BinaryIO

# JPEG: a progressive one has about ten scans, each a pass over all its pixels; and some ten segments beside them.
MAX_SCANS, MAX_SEGMENTS, MAX_METADATA = 100, 1000, 16_000_000
MAX_GIF_PRELUDE = 1_000_000  # bytes of comments and the like before the first frame
# A marker of a JPEG, among them neither 0 (a pixel's 255), nor the restarts within a scan, nor padding.
MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
START_OF_SCAN, END = 0xDA, 0xD9
PART = 1 << 16


def excess(file: BinaryIO) -> str | None:
    """What there is too much of, or None. The file is left at its start."""
    file.seek(0)
    start = file.read(6)
    found = None
    if start.startswith(b"\xff\xd8"):
        found = jpeg(file)
    elif start in (b"GIF87a", b"GIF89a"):
        found = gif(file)
    file.seek(0)
    return found


def jpeg(file: BinaryIO) -> str | None:
    """Up to the end of the picture: cameras put films behind it."""
    scans = segments = size = 0
    file.seek(2)
    while (marker := next_marker(file)) not in (None, END):
        length = int.from_bytes(file.read(2), "big")
        file.seek(max(length - 2, 0), 1)
        scans, segments, size = scans + (marker == START_OF_SCAN), segments + 1, size + length
        if scans > MAX_SCANS:
            return f"more than {MAX_SCANS} scans"
        if segments > MAX_SEGMENTS or size > MAX_METADATA:
            return f"more than {MAX_SEGMENTS} segments or {MAX_METADATA // 10**6} MB beside its pixels"
    return None


def next_marker(file: BinaryIO) -> int | None:
    """The marker that comes next, with the file behind it; None at the end of the file."""
    while True:
        start = file.tell()
        part = file.read(PART)
        if found := MARKER.search(part):
            file.seek(start + found.end())
            return part[found.end() - 1]
        if len(part) < 2:
            return None
        file.seek(start + len(part) - 1)  # the last byte may be the first of a marker


def gif(file: BinaryIO) -> str | None:
    """Up to the first frame."""
    file.seek(10)
    flags = int.from_bytes(file.read(1), "big")
    file.seek(13 + (3 << (flags % 8 + 1)) * (flags > 127))  # behind the palette
    while file.tell() <= MAX_GIF_PRELUDE:
        if file.read(1) != b"!":  # no extension: the frame, or damage
            return None
        file.seek(1, 1)
        while length := int.from_bytes(file.read(1), "big"):
            file.seek(length, 1)
    return f"more than {MAX_GIF_PRELUDE // 10**6} MB before the first frame"
