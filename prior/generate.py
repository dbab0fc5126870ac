"""What transformers' own `generate` needs to know of a prior, so that it draws images and nothing else."""

from collections.abc import Sequence

from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, PreTrainedConfig

from .order.sequences import num_positions
from .turns import turns


def generation_config(config: PreTrainedConfig) -> GenerationConfig:
    """What `generate` does by default with a prior by `build_prior`: it draws the T codes of an image after each class.

    Saved beside the weights as generation_config.json, which vLLM reads as well. Class ids are never drawn, nothing
    else is cut off, and there is no token that ends an image early. With free order it draws T pairs, and needs
    `PairsInOrder` to know which position comes next.
    """
    positions = num_positions(config)
    length, first_class = config.num_tokens + positions, config.num_codes + positions
    return GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        min_new_tokens=length,
        max_new_tokens=length,
        suppress_tokens=list(range(first_class, first_class + config.num_classes + 1)),
    )


class CodesInTurn(LogitsProcessor):
    """For `generate` with a prior of several codes a position: token t is one of the t mod M-th K / M codes.

    Args:
        num_codes: K, of all codebooks.
        codes_per_position: M.
    """

    def __init__(self, num_codes: int, codes_per_position: int):
        self._ids = [ids for _, ids in turns(num_codes, codes_per_position)]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) after input_ids (B, 1 + t), a class and t tokens, without codes whose turn it is not."""
        own = self._ids[(input_ids.shape[1] - 1) % len(self._ids)]
        in_turn = scores.new_full(scores.shape, -float("inf"))
        in_turn[:, own] = scores[:, own]
        return in_turn


class PairsInOrder(LogitsProcessor):
    """For `generate` with a prior of free order: gives it the position before each code, in an order of one's own.

    Args:
        num_codes: K.
        order: the T positions of an image, each once.
        codes_per_position: M.
    """

    def __init__(self, num_codes: int, order: Sequence[int], codes_per_position: int = 1):
        self._num_codes, self._order = num_codes, list(order)
        self._ids = [ids for _, ids in turns(num_codes, codes_per_position)]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) after input_ids (B, 1 + n), a class and pairs, the last without its code where n is odd."""
        pair, is_code = divmod(input_ids.shape[1] - 1, 2)
        position = self._order[pair]
        id_of_position = self._num_codes + position
        own = self._ids[position % len(self._ids)] if is_code else slice(id_of_position, id_of_position + 1)
        allowed = scores.new_full(scores.shape, -float("inf"))
        allowed[:, own] = scores[:, own]
        return allowed
