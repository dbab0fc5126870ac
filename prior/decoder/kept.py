"""The decoder of a model, kept from call to call for as long as no weight of the model changes."""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .any_model import Decoder
from .build import build_decoder, readable_as

_kept: "WeakKeyDictionary[PreTrainedModel, tuple[object, Decoder]]" = WeakKeyDictionary()
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def kept_decoder(
    model: PreTrainedModel, num_codes: int, rows: int, dtype: torch.dtype | None = None, scored: int | None = None
) -> Decoder:
    """What `build_decoder` gives; what it gave to the last call, if arguments and weights are the same.

    One is kept for a model, and freed with it: the model's matrices once more, in `dtype`, and on a GPU the caches and
    graphs of the last call. All weights are read to see whether they changed, as one step of decoding does.

    Raises:
        InputError: as `build_decoder`.
    """
    kind = readable_as(model)
    if kind is None:  # a decoder that calls its model would keep it alive
        return build_decoder(model, num_codes, rows, dtype, scored)
    key = (kind, num_codes, rows, dtype, scored, model.dtype, model.device, _weights(model))
    before = _kept.pop(model, None)
    if before and before[0] != key:
        before = None  # freed before the next is built: there is no memory for two
    decoder = before[1] if before else build_decoder(model, num_codes, rows, dtype, scored)
    _kept[model] = key, decoder
    return decoder


def forget_decoder(model: PreTrainedModel) -> None:
    """Free what is kept for a model."""
    _kept.pop(model, None)


def _weights(model: PreTrainedModel) -> tuple[list[int], list[int]]:
    """Numbers that change with any weight: how often each tensor was written, and sums of their bits.

    The first do not see what is written through `.data`, the second not what only changed places.
    """
    tensors = [*model.parameters(), *model.buffers()]
    versions = [0 if tensor.is_inference() else tensor._version for tensor in tensors]
    return versions, torch.stack([_sum_of_bits(tensor.detach().flatten()) for tensor in tensors]).tolist()


def _sum_of_bits(x: Tensor) -> Tensor:
    size = x.element_size()
    whole = len(x) * size % 8 == 0 and x.storage_offset() * size % 8 == 0
    return x.view(torch.int64 if whole else _INTEGERS[size]).sum()
