"""Any other causal model, through its own forward."""

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache


class Decoder(Protocol):
    """What the sampler needs of a model."""

    def new_cache(self, rows: int, length: int, one_by_one: bool = True) -> Any:
        """An empty cache for that many sequences of up to that many positions.

        one_by_one: whether most steps are of one token each, for which graphs are worth making.
        """
        ...

    def give_back(self, caches: Iterable[Any]) -> None:
        """Caches that are not used any more, all those of a call; the next call may get them again."""
        ...

    def __call__(
        self,
        tokens: Tensor,
        cache: Any,
        positions: Tensor | None = None,
        visible: Tensor | None = None,
        num_logits: int = 1,
    ) -> Tensor:
        """What `logits` takes, for what follows the last of the new tokens, which follow what the cache has seen.

        Args:
            tokens: ids (R, n).
            cache: by `new_cache` for R sequences; longer by n afterwards.
            positions: that the model is told of the tokens, (n,) or (R, n); by default their places in the cache.
            visible: bool (n, E) or (R, n, E), whether each token attends to each of the E places of the cache, its own
                and those of the other new tokens included; by default to all up to its own.
            num_logits: m, of how many of the last tokens.

        Returns:
            (R, m, F), float32; the next call may overwrite them.
        """
        ...

    def logits(self, features: Tensor) -> Tensor:
        """Logits (..., K), float32, a linear function of features (..., F): of their mixtures, the same mixtures."""
        ...


class ModelDecoder:
    """Any causal language model, through its own forward."""

    def __init__(self, model: PreTrainedModel, num_codes: int):
        self.model, self.num_codes = model, num_codes

    def new_cache(self, rows: int, length: int, one_by_one: bool = True) -> DynamicCache:
        return DynamicCache(config=self.model.config)

    def give_back(self, caches: Iterable[DynamicCache]) -> None:
        pass

    def __call__(
        self,
        tokens: Tensor,
        cache: DynamicCache,
        positions: Tensor | None = None,
        visible: Tensor | None = None,
        num_logits: int = 1,
    ) -> Tensor:
        options: dict[str, Any] = {}
        if positions is not None:
            options["position_ids"] = positions.expand(tokens.shape)
        if visible is not None:
            visible = visible.expand(len(tokens), *visible.shape[-2:])[:, None]
            hidden = torch.zeros_like(visible, dtype=self.model.dtype).masked_fill_(~visible, float("-inf"))
            options["attention_mask"] = hidden
        output = self.model(input_ids=tokens, past_key_values=cache, use_cache=True, **options)
        return output.logits[:, -num_logits:, : self.num_codes].float()

    def logits(self, features: Tensor) -> Tensor:
        return features
