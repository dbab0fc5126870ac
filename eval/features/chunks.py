"""Passes over images in chunks of one size, which processes share and an interruption does not undo.

A chunk is computed by itself and written whole, and chunks are put together in their order: neither how many processes
there are nor how often they were stopped can change what comes out.
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
from wvq.tokenizer.storage.atomic import write_file, write_json
from wvq.tokenizer.storage.lock import Lock

CHUNK_SIZE = 250
"""Images of a chunk: what an interruption costs a process at most; two chunks of images are in memory at once."""

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

        Each process works on its share of what the folder does not have. A collective call.

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
        state = this_process()
        about = {**about, "count": count, "part_size": CHUNK_SIZE, "torch": torch.__version__}
        folder = self._place(name, about)
        files = [folder / f"{number:05d}.safetensors" for number in range(len(ranges))]
        lock = _only_evaluation_in(folder)
        try:
            missing = on_first_process(lambda: _begin(folder, about, files))
            mine = missing[state.process_index :: state.num_processes]
            share = [ranges[number] for number in mine]

            def compute() -> None:
                made = _with_bar(work(share), share, name, progress and state.is_main_process)
                for number, tensors in zip(mine, made, strict=True):
                    write_file(files[number], save(tensors))

            on_every_process(compute)
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


def _begin(folder: Path, about: dict[str, Any], files: Sequence[Path]) -> list[int]:
    """The numbers of the chunks that are not there yet."""
    write_json(folder / "about.json", about)
    return [number for number, file in enumerate(files) if not file.exists()]


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
