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

    def __call__(self, tokens: Tensor, cache: Any) -> Tensor:
        """Logits (R, K), float32, of what follows tokens (R, n), which themselves follow what the cache has seen."""
        ...


class ModelDecoder:
    """Any causal language model, through its own forward."""

    def __init__(self, model: PreTrainedModel, num_codes: int):
        self.model, self.num_codes = model, num_codes

    def new_cache(self, rows: int, length: int) -> DynamicCache:
        return DynamicCache(config=self.model.config)

    def __call__(self, tokens: Tensor, cache: DynamicCache) -> Tensor:
        output = self.model(input_ids=tokens, past_key_values=cache, use_cache=True)
        return output.logits[:, -1, : self.num_codes].float()
