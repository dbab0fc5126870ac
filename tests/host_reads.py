"""Where the host waits for a device, counted on the one that is not here (other_device.py), or on a GPU by torch.

A GPU works through a queue; whatever the host wants to know of a tensor there empties it first. What counts as such a
wait is what `torch.cuda.set_sync_debug_mode` complains of, and what of it the tensors from elsewhere can be seen to do:
a number, a mask or a list of places that is read, a copy to the CPU, a result whose shape depends on values, a
decomposition that checks itself, a copy to the device that is not `non_blocking`.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import other_device
import torch
from other_device import ELSEWHERE
from torch import Tensor
from torch.utils._pytree import tree_flatten

_READS = (
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "bincount", "_linalg_eigh", "_linalg_svd", "linalg_eig", "_linalg_check_errors",
)  # fmt: skip
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")


@contextmanager
def counted_waits() -> Iterator[list[str]]:
    """Inside, each wait for a device is appended to the list: what it was, and where in the package."""
    waits: list[str] = []
    run = other_device._run

    def watched(func: Any, args: Any, kwargs: dict[str, Any], float64: bool = True) -> Any:
        if what := _wait(func, args, kwargs):
            waits.append(f"{what} at {_place()}")
        return run(func, args, kwargs, float64)

    with patch.object(other_device, "_run", watched), _watched_gpu(waits):
        yield waits


@contextmanager
def _watched_gpu(waits: list[str]) -> Iterator[None]:
    if not torch.cuda.is_available():
        yield
        return
    show = warnings.showwarning

    def note(message: Any, *args: Any, **kwargs: Any) -> None:
        if "synchronizing CUDA operation" in str(message):
            waits.append(f"synchronization at {_place()}")
        else:
            show(message, *args, **kwargs)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=".*synchronizing CUDA operation")
        warnings.showwarning = note
        try:
            note_waits("warn")
            yield
        finally:
            note_waits("default")


def note_waits(mode: str) -> None:
    """Have torch say where the host waits for a GPU: "warn", "error", or "default", not at all."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode(mode)


def _wait(func: Any, args: Any, kwargs: dict[str, Any]) -> str:
    """What makes the host wait in an operation, or nothing."""
    name = func._schema.name.removeprefix("aten::")
    there = [leaf for leaf in tree_flatten((args, kwargs))[0] if _is_there(leaf)]
    if name in ("_to_copy", "copy_"):
        source = args[1] if name == "copy_" else args[0]
        comes, goes = _is_there(source), _is_there(args[0])
        if name == "_to_copy" and kwargs.get("device") is not None:
            goes = torch.device(kwargs["device"]) == ELSEWHERE
        waiting = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
        return f"{name} {'from' if comes else 'to'} the device" if comes != goes and waiting else ""
    if not there:
        return ""
    if name in _READS:
        return name
    if name == "repeat_interleave" and kwargs.get("output_size") is None:
        return name
    if name in _INDEXING:
        chosen = [index for index in args[1] if isinstance(index, Tensor)]
        if any(index.dtype in (torch.bool, torch.uint8) or not _is_there(index) for index in chosen):
            return name
    return ""


def _is_there(value: Any) -> bool:
    return isinstance(value, other_device._Elsewhere)


def _place() -> str:
    """The innermost line of the package that is being run."""
    frame = sys._getframe(1)
    while frame and not frame.f_globals.get("__name__", "").startswith("wvq."):
        frame = frame.f_back
    return f"{frame.f_globals['__name__']}, line {frame.f_lineno}" if frame else "another package"
