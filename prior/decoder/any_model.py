"""Any other causal model, through its own forward."""

from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache


class Decoder(Protocol):
    """What the sampler needs of a model."""

    def new_cache(self, rows: int, length: int) -> Any:
        """An empty cache for that many sequences of up to that many positions."""
        ...

    def __call__(self, tokens: Tensor, cache: Any, last: int = 1) -> Tensor:
        """Logits (R * last, K), float32, of what follows the last of tokens (R, n), which follow what the cache has."""
        ...


class ModelDecoder:
    """Any causal language model, through its own forward."""

    def __init__(self, model: PreTrainedModel, num_codes: int):
        self.model, self.num_codes = model, num_codes

    def new_cache(self, rows: int, length: int) -> DynamicCache:
        return DynamicCache(config=self.model.config)

    def __call__(self, tokens: Tensor, cache: DynamicCache, last: int = 1) -> Tensor:
        output = self.model(input_ids=tokens, past_key_values=cache, use_cache=True)
        return output.logits[:, -last:, : self.num_codes].flatten(0, 1).float()
