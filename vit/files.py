"""Files that are whole at every moment."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)  # a full disk or quota: nothing that was asked for is wrong


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A name to write to that becomes `path` once the block ends without an error, and is removed otherwise."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)  # of a killed process, or a link that someone else put there
        part.touch(exist_ok=False)
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        part.unlink(missing_ok=True)
