"""A device that is not here, so that what is made on the wrong one is found without it.

Its tensors hold CPU tensors, which compute, and claim to be on the "meta" device: an operation that mixes them with
others fails as it would on a GPU, and one that gives float64 as it would on an Apple GPU, if so asked.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from inspect import unwrap
from typing import Any
from unittest.mock import patch

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from wvq.tokenizer import precision

ELSEWHERE = torch.device("meta", 1)  # "meta" itself keeps its meaning
_MOVES = ("_to_copy", "copy_")  # from device to device
_CONVERSIONS = (unwrap(torch.tensor), unwrap(torch.as_tensor))  # which the suite watches (device_watch.py)
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")  # take indices from the CPU


class _Elsewhere(Tensor):
    """A CPU tensor, `held`, that claims to be elsewhere."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "_Elsewhere":
        layout: Any = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made: Any = torch.Tensor._make_wrapper_subclass(cls, held.shape, **layout, device=ELSEWHERE)
        made.held = held
        return made

    __torch_dispatch__ = classmethod(lambda cls, func, types, args=(), kwargs=None: _run(func, args, kwargs or {}))

    def __repr__(self, **_: Any) -> str:
        return f"elsewhere: {self.held}"


class _Numbers(TorchFunctionMode):
    """From Python's numbers to tensors and back, where torch itself moves them, unseen by other modes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.tolist:
            return func(args[0].cpu())
        if func is Tensor.new_tensor:
            return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to(args[0].device)
        if func in _CONVERSIONS and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


class _Operations(TorchDispatchMode):
    """Runs every operation, those that make tensors from nothing included."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, self.float64)

    def __init__(self, float64: bool):
        super().__init__()
        self.float64 = float64


@contextmanager
def elsewhere(float64: bool = True) -> Iterator[torch.device]:
    """The device, to which tensors can be moved, and on which they can be made, inside.

    Args:
        float64: whether it has float64.
    """
    original: Any = torch.autocast

    def autocast(device_type: str, **options: Any) -> Any:
        return original("cpu" if device_type == "meta" else device_type, **options)

    def has_float64(device: torch.device) -> bool:
        return float64 or device != ELSEWHERE

    with ExitStack() as patches:
        patches.enter_context(patch.object(torch, "autocast", autocast))
        patches.enter_context(patch.object(torch, "inference_mode", torch.no_grad))  # knows no tensors of this kind
        patches.enter_context(patch.object(precision, "has_float64", has_float64))
        patches.enter_context(
            patch("torch.optim.optimizer._get_fused_kernels_supported_devices", lambda: ["meta", "cpu"])
        )
        swaps = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)  # a moved parameter is still the optimizer's
        try:
            with _Operations(float64), _Numbers():
                yield ELSEWHERE
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swaps)


def _run(func: Any, args: Any, kwargs: dict[str, Any], float64: bool = True) -> Any:
    """One operation, computed on the CPU.

    Raises:
        RuntimeError: if its tensors are on different devices.
        TypeError: for float64 where there is none.
    """
    name = func._schema.name.removeprefix("aten::")
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, _Elsewhere)]
    here = [tensor for tensor in tensors if not isinstance(tensor, _Elsewhere)]
    if there and here and name not in _MOVES:
        joined = name in ("cat", "stack") or name.startswith("_foreach")
        stray = [tensor for tensor in here if tensor.ndim or joined]  # a single number may come from the CPU
        if stray and not (name in _INDEXING and isinstance(args[0], _Elsewhere)):
            raise RuntimeError(f"{name}: tensors on two devices, those on the CPU of shapes {[x.shape for x in here]}")
    goes_there = bool(there)
    if name == "copy_":
        goes_there = isinstance(args[0], _Elsewhere)
    if kwargs.get("device") is not None:
        goes_there = torch.device(kwargs["device"]) == ELSEWHERE
        kwargs = {**kwargs, "device": torch.device("cpu")} if goes_there else kwargs
    plain_args, plain_kwargs = tree_map(lambda x: x.held if isinstance(x, _Elsewhere) else x, (args, kwargs))
    made = func(*plain_args, **plain_kwargs)
    owners = {id(tensor.held): tensor for tensor in there}  # an operation in place returns what it was given

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor) or not goes_there:
            return value
        if value.dtype == torch.float64 and not float64:
            raise TypeError(f"{name}: float64 where there is none")
        return owners[id(value)] if id(value) in owners else _Elsewhere(value)

    return tree_map(placed, made)


NO_GPU = pytest.mark.skipif(not torch.accelerator.is_available(), reason="no GPU was found")
DEVICES = ["elsewhere", "elsewhere, no float64", pytest.param("gpu", marks=[pytest.mark.gpu, NO_GPU])]
"""What a test that runs on a device is given by name: those that are not here, and the GPU, if there is one."""


@contextmanager
def device_called(name: str) -> Iterator[torch.device]:
    """One of `DEVICES`; inside, commands run on it as on a machine that has it."""
    if name == "gpu":
        found = torch.accelerator.current_accelerator()
        assert found is not None
        yield found
        return
    with elsewhere(float64="no float64" not in name) as device:
        reset_accelerate()
        PartialState(cpu=True).device = device
        try:
            yield device
        finally:
            reset_accelerate()


def reset_accelerate() -> None:
    """Let Accelerate find its processes and device anew."""
    AcceleratorState._reset_state(reset_partial_state=True)
