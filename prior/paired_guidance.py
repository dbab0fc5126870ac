"""Classifier-free guidance in vLLM, which has none of its own: a logits processor that pairs requests.

An image is two requests: one that begins with its class, one that begins with the null class. Both draw from the guided
scores with the same seed, so that they draw the same tokens. Nothing here imports vLLM; its engine wants a class that
derives from its own as well:

    from vllm.v1.sample.logits_processor import LogitsProcessor

    class Guidance(PairedGuidance, LogitsProcessor): ...

    LLM(folder, logits_processors=[Guidance], skip_tokenizer_init=True)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wvq.tokenizer.errors import InputError

from .guidance import guidance_scales

_KEYS = {"guidance_pair", "guidance_scale", "guidance_null"}


@dataclass(frozen=True)
class GuidedRequest:
    """A half of an image: the prompt of one token, and the `seed` and `extra_args` of its `SamplingParams`."""

    prompt_token_ids: list[int]
    seed: int
    extra_args: dict[str, Any]


def guided_requests(
    class_labels: Sequence[int], num_codes: int, num_classes: int, guidance_scale: float, seed: int = 0
) -> list[GuidedRequest]:
    """Two requests for each image, one after the other; the first of them is the image's own.

    Args:
        class_labels: of the images, each in [0, num_classes).
        num_codes, num_classes: of the prior.
        guidance_scale: as for `wvq.prior.sample_tokens`.
        seed: image i is drawn with seed + i.

    Raises:
        InputError: for a class that does not exist, a prior without classes, or a scale out of its range.
    """
    guidance_scales(guidance_scale, 1)
    if num_classes < 1 or not all(0 <= label < num_classes for label in class_labels):
        raise InputError(f"class_labels are {list(class_labels)!r:.60}; valid are 0 to {num_classes - 1}")
    return [
        GuidedRequest(
            [num_codes + (num_classes if null else label)],
            seed + image,
            {"guidance_pair": image, "guidance_scale": guidance_scale, "guidance_null": null},
        )
        for image, label in enumerate(class_labels)
        for null in (False, True)
    ]


class PairedGuidance:
    """Replaces the scores of both requests of a pair by null + guidance_scale * (class - null).

    A pair has to be in every step of the engine together, at the same length: give `LLM` an even max_num_seqs, and
    memory for as many. Where one half is missing, guidance is not left out in silence: `apply` raises.

    The methods are those of vLLM's `LogitsProcessor`. Rows of requests without `guidance_pair` stay as they are.
    """

    def __init__(self, vllm_config: Any = None, device: Any = None, is_pin_memory: bool = False):
        self._rows: dict[int, tuple[dict[str, Any], list[int]]] = {}  # of guided requests: extra_args, tokens so far

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raises: InputError: for extra_args that name a pair, but not all that belongs to it, or no seed."""
        given = (sampling_params.extra_args or {}).keys() & _KEYS
        if given and given != _KEYS:
            raise InputError(f"extra_args have {sorted(given)}; guidance needs {sorted(_KEYS)}")
        if given and sampling_params.temperature and sampling_params.seed is None:
            raise InputError("seed is None; both requests of a pair need the same, to draw the same tokens")

    def is_argmax_invariant(self) -> bool:
        """False: guidance changes which code is the most probable."""
        return False

    def needs_output_token_ids(self) -> bool:
        """True: how many tokens each half of a pair has is compared."""
        return True

    def update_state(self, batch_update: Any) -> None:
        """Follow requests as the engine removes them, adds them and moves them from row to row."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._rows.pop(row, None)
        for row, params, _, tokens in batch_update.added:
            self._rows.pop(row, None)
            if "guidance_pair" in (params.extra_args or {}):
                self._rows[row] = params.extra_args, tokens
        for start, end, direction in batch_update.moved:
            moved, replaced = self._rows.pop(start, None), self._rows.pop(end, None)
            if moved is not None:
                self._rows[end] = moved
            if replaced is not None and direction.name == "SWAP":
                self._rows[start] = replaced

    def apply(self, logits: Tensor) -> Tensor:
        """Logits (R, V) of all requests in the batch, those of pairs replaced in place.

        What a mask has excluded from the class's scores stays excluded.

        Raises:
            InputError: if the other half of a pair is not there, or further or less far.
        """
        if not self._rows:
            return logits
        own = {v["guidance_pair"]: row for row, (v, _) in self._rows.items() if not v["guidance_null"]}
        null = {v["guidance_pair"]: row for row, (v, _) in self._rows.items() if v["guidance_null"]}
        for pair in own.keys() | null.keys():
            if pair not in own or pair not in null or self._length(own[pair]) != self._length(null[pair]):
                raise InputError(
                    f"pair {pair} has only one of its requests in this step; give LLM an even max_num_seqs and more "
                    "memory, or fewer images at once"
                )
        rows, others = [*own.values()], [null[pair] for pair in own]
        scales = [self._rows[row][0]["guidance_scale"] for row in rows]
        conditional, unconditional = logits[rows], logits[others]
        scale = torch.tensor(scales, dtype=logits.dtype, device=logits.device)[:, None]
        guided = unconditional + scale * (conditional - unconditional)
        guided = torch.where(conditional.isneginf(), conditional, guided)
        logits[rows] = guided
        logits[others] = guided
        return logits

    def _length(self, row: int) -> int:
        return len(self._rows[row][1])
