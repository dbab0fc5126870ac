"""Passes over images in chunks of one size, which processes share and an interruption does not undo.

A chunk is computed by itself and written whole, and chunks are put together in their order: neither how many processes
there are nor how often they were stopped can change what comes out. The processes of one evaluation claim chunks by
leases, so that a slow one holds up nobody; they meet when all are there, so none may be missing then. Another
evaluation that needs the same pass waits for it, by a lock, since who is done removes what it has used.
"""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from wvq.pipelines.processes import this_process
from wvq.tokenizer.distributed import on_every_process, on_first_process
from wvq.tokenizer.errors import InputError
from wvq.tokenizer.progress import progress_bar
from wvq.tokenizer.storage.atomic import write_json, write_once
from wvq.tokenizer.storage.leases import work_through
from wvq.tokenizer.storage.lock import Lock

CHUNK_SIZE = 250
"""Images of a chunk: what an interruption costs a process at most; two chunks of images are in memory at once."""

_CLAIMED = 4  # chunks at once, if there are enough: processes that read ahead are started anew each time
_LOCK = ".lock"  # in the folder of a pass
_PAUSE = 1.0  # seconds between looks at a lock

Work = Callable[[Sequence[range]], Iterable[dict[str, Tensor]]]


class Chunks:
    """Where the chunks of passes are kept, until `clear`.

    Args:
        folder: shared by all processes, on several machines too. Without one nothing is kept, and every process does
            all of the work.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = None if folder is None else Path(folder)
        self._used: list[Path] = []

    def run(
        self, name: str, about: Mapping[str, Any], count: int, work: Work, progress: bool = True
    ) -> list[dict[str, Tensor]]:
        """Results of all chunks of images 0 to count - 1, in order, the same on every process.

        Processes share what the folder does not have. A collective call.

        Args:
            name: of the pass, for its bar and its folder.
            about: all that the results depend on, JSON-able; results of anything else are never taken for these.
            count: images.
            work: from ranges of images to one dictionary of tensors on the CPU for each, in turn.
            progress: whether to show a bar, on the main process.

        Raises:
            InputError: for a file in the folder that is damaged; on all processes what `work` raises on one of them.
        """
        ranges = [range(start, min(start + CHUNK_SIZE, count)) for start in range(0, count, CHUNK_SIZE)]
        if self.folder is None:
            return list(_with_bar(work(ranges), ranges, name, progress))
        about = {**about, "count": count, "part_size": CHUNK_SIZE, "torch": torch.__version__}
        folder = self._place(name, about)
        files = [folder / f"{number:05d}.safetensors" for number in range(len(ranges))]
        lock = _only_evaluation_in(folder)
        try:
            on_first_process(lambda: write_json(folder / "about.json", about))
            shown = progress and this_process().is_main_process
            on_every_process(lambda: _make_missing(name, files, ranges, work, shown))
            return on_every_process(lambda: [_read(file) for file in files])  # nobody clears before everybody has read
        finally:
            if lock:
                lock.release()

    def clear(self) -> None:
        """Remove what this object's passes have kept; for one process, after the last of them.

        What another evaluation works on at that moment is left to it.
        """
        for folder in self._used:
            with suppress(InputError), Lock(folder / _LOCK):
                shutil.rmtree(folder)
        if self.folder is not None:
            with suppress(OSError):  # not there, or another evaluation has something in it
                self.folder.rmdir()
        self._used = []

    def _place(self, name: str, about: dict[str, Any]) -> Path:
        assert self.folder is not None
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        folder = self.folder / f"{name}-{key[:16]}"
        if folder not in self._used:
            self._used.append(folder)
        return folder


def _only_evaluation_in(folder: Path) -> Lock | None:
    """The lock of a pass, held by the first process; waits for another evaluation that is at the same pass.

    Held for a pass, not for an evaluation: the other one then finds what both need, and neither can wait in a circle.
    """

    lock: Lock | None = None
    told = False

    def refusal_of_lock() -> str:
        nonlocal lock
        try:
            lock = Lock(folder / _LOCK)
        except InputError as error:
            return str(error)
        return ""

    while refusal := on_first_process(refusal_of_lock):
        if not told and this_process().is_main_process:
            print(f"{refusal.split(';')[0]}: waiting for the same pass of another evaluation", file=sys.stderr)
        told = True
        time.sleep(_PAUSE)
    return lock


def _make_missing(name: str, files: Sequence[Path], ranges: Sequence[range], work: Work, progress: bool) -> None:
    """Have every file made that is not there, by this process or another."""
    size = max(1, min(_CLAIMED, len(files) // (_CLAIMED * this_process().num_processes)))
    groups = {f"{first:05d}": range(len(files))[first : first + size] for first in range(0, len(files), size)}

    def missing(group: str) -> list[int]:
        return [number for number in groups[group] if not files[number].exists()]

    def make(group: str, held: Callable[[], bool]) -> None:
        numbers = missing(group)
        for number, tensors in zip(numbers, work([ranges[number] for number in numbers]), strict=True):
            write_once(files[number], save(tensors), files[number].parent, synchronized=False)
            bar.update(len(ranges[number]))
            if not held():
                return

    total = sum(len(ranges[number]) for group in groups for number in missing(group))
    with progress_bar(total=total, desc=name, unit="image", disable=not progress) as bar:
        if groups:
            work_through(files[0].parent / "leases", groups, lambda group: not missing(group), make)


def _with_bar(
    results: Iterable[dict[str, Tensor]], ranges: Sequence[range], name: str, progress: bool
) -> Iterator[dict[str, Tensor]]:
    with progress_bar(total=sum(map(len, ranges)), desc=name, unit="image", disable=not progress) as bar:
        for images, result in zip(ranges, results, strict=True):
            yield result
            bar.update(len(images))


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load(file.read_bytes())
    except (SafetensorError, FileNotFoundError) as error:
        raise InputError(f"{file} is damaged or gone ({error}); remove its folder and start again") from error
