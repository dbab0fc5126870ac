"""A tensor that the package makes without naming its device is made on the CPU, and missed where the rest is on a GPU.

So torch's factories are watched: a call without a device, from a module of wvq, is an error wherever it is made, in
processes that tests start as well (sitecustomize.py). What is on the CPU by intent is listed in device_exceptions.py.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import torch
from device_exceptions import FUNCTIONS, ROOMS
from torch import overrides
from torch.jit import _builtins
from torch.utils import _device

NOTES = "WVQ_DEVICE_EXCEPTIONS_USED"  # environment: the file that all processes note exceptions in, once used
_CONVERSIONS = ("tensor", "as_tensor", "asarray")  # of what may be a tensor already, whose device they keep
_noted: set[str] = set()


class DeviceMissing(BaseException):
    """No Exception, since the package may catch those."""


@contextmanager
def watching(notes: Path) -> Iterator[None]:
    """Watch factories inside, here and in processes that are started.

    Args:
        notes: file to which the exceptions used are appended.
    """
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    with patch.dict(os.environ, {NOTES: str(notes), "PYTHONPATH": path}), patch.multiple(torch, **watched_factories()):
        yield


def watched_factories() -> dict[str, Any]:
    """By name, all of torch's factories that make a tensor on the default device, to be put in their place."""
    known = {factory.__name__: factory for factory in _device._device_constructors()}
    factories = {name: factory for name, factory in known.items() if getattr(torch, name, None) is factory}
    assert {"tensor", "zeros", "arange", "rand"} <= factories.keys(), "find what torch calls its list of factories now"
    return {name: _watched(name, factory) for name, factory in factories.items()}


def unused_exceptions(notes: Path) -> list[str]:
    """Exceptions that no process used."""
    used = set(notes.read_text().splitlines()) if notes.exists() else set()
    return sorted((FUNCTIONS.keys() | ROOMS.keys()) - used)


def _watched(name: str, factory: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(factory)
    def watched(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("device") is None and not torch.compiler.is_compiling():  # what compiles cannot look at frames
            caller = sys._getframe(1)
            if caller.f_globals.get("__name__", "").startswith("wvq."):
                _check(name, caller, args, kwargs)
        return factory(*args, **kwargs)

    if operation := _builtins._find_builtin(factory):  # torch.jit knows operations by the identity of their functions
        _builtins._register_builtin(watched, operation)
    return watched


def _check(name: str, caller: FrameType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise DeviceMissing, unless the device is given otherwise or the caller is an exception."""
    if any(isinstance(mode, _device.DeviceContext) for mode in overrides._get_current_function_mode_stack()):
        return
    if kwargs.get("generator") is not None:  # torch makes random numbers nowhere but where their generator is
        return
    if name in _CONVERSIONS and args and isinstance(args[0], torch.Tensor):
        return
    if _makes_a_module(caller):
        return
    module = caller.f_globals["__name__"]
    function = f"{module}.{caller.f_code.co_qualname}".split(".<locals>")[0]
    room = next((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), None)
    if exception := function if function in FUNCTIONS else room:
        _note(exception)
        return
    raise DeviceMissing(
        f"{function}, line {caller.f_lineno}: torch.{name} without a device. On a GPU its tensor would be on the CPU: "
        "name the device, or list the function in tests/device_exceptions.py"
    )


def _makes_a_module(frame: FrameType | None) -> bool:
    """Whether the call is part of making an nn.Module, which is moved as a whole."""
    while frame is not None:
        code = frame.f_code
        making = code.co_name in ("__init__", "__post_init__") and code.co_argcount
        if making and isinstance(frame.f_locals.get(code.co_varnames[0]), torch.nn.Module):
            return True
        frame = frame.f_back
    return False


def _note(exception: str) -> None:
    if exception not in _noted and NOTES in os.environ:
        _noted.add(exception)
        with open(os.environ[NOTES], "a") as file:
            file.write(f"{exception}\n")
