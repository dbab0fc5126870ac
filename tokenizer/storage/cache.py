"""Where to keep what is only a convenience to have again."""

import functools
import sys
import tempfile
from pathlib import Path

_kept: list[tempfile.TemporaryDirectory] = []  # removed when the process ends


@functools.cache
def writable_cache(folder: Path) -> Path:
    """The folder, made if need be; where nothing can be written to it, another for this process, with a word about it.

    Raises:
        OSError: if nothing can be written to the system's folder of temporary files either.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        _kept.append(tempfile.TemporaryDirectory(prefix="wvq-cache-", ignore_cleanup_errors=True))
        print(f"{folder} cannot be written to ({error.strerror}); nothing is kept for the next time", file=sys.stderr)
        return Path(_kept[-1].name)
