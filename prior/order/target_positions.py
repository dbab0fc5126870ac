"""What tells a GPT-2 in training which position it is to predict, while random orders anneal to raster."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2LMHeadModel, PreTrainedModel

from wvq.tokenizer.distributed import whole_tensor


class TargetPositions(nn.Module):
    """An embedding of the position that is predicted next, added to a GPT-2's inputs (RAR, arXiv 2411.00776).

    Beside it each token keeps the embedding of its own position, wherever in the sequence it stands, so that sequences
    are as long as in raster order. In raster order the next position follows from a token's own, and the two
    embeddings are one: the prior that is saved is a plain one. It begins at zero.

    Args:
        prior: the GPT-2 that it is for, with its num_tokens, T.
    """

    def __init__(self, prior: PreTrainedModel):
        super().__init__()
        assert isinstance(prior, GPT2LMHeadModel)
        self.table = nn.Parameter(torch.zeros(prior.config.num_tokens, prior.config.n_embd))

    def input_part(self, orders: Tensor) -> Tensor:
        """What is added to the inputs (B, T, C) of the class and the first T - 1 codes in orders (B, T)."""
        return F.embedding(orders, self.table)

    @staticmethod
    def own_positions(orders: Tensor) -> Tensor:
        """Where in raster order the class and the first T - 1 codes in orders (B, T) stand: (B, T), 0 for the class."""
        return F.pad(orders[:, :-1] + 1, (1, 0))

    @torch.no_grad()
    def fold_into(self, prior: PreTrainedModel) -> None:
        """Give a GPT-2 with plain weights new positions that are its own plus these; a collective call if sharded."""
        assert isinstance(prior, GPT2LMHeadModel)
        table = prior.transformer.wpe
        added = whole_tensor(self.table)
        table.weight = nn.Parameter(table.weight + F.pad(added, (0, 0, 0, len(table.weight) - len(added))))
