"""What the vectors of the codes tell a prior while it is trained: codes that are alike begin alike.

To a prior K codes are K unrelated words, though their vectors say which of them are near each other. While it is
trained, its input table and its output layer are each a free table plus `features @ map`: the features are fixed
functions of the code vectors, and the maps, a few thousand numbers, are learnt from every token. Both sums are plain
tables, so that the prior that is saved is a plain one.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from wvq.tokenizer.distributed import whole_tensor
from wvq.tokenizer.errors import InputError

BANDWIDTH = 2.0  # of the Gaussian kernel, in standard deviations of the codes
_ROUNDING = 1e-10  # variance, as a share of the largest, below which a direction of float32 codes is noise
_NEIGHBOURS = 1024  # codes whose nearest neighbour is looked for
_BLOCK_ENTRIES = 2**22  # distances held at once, 32 MiB


def code_features(*codebooks: Tensor, count: int, seed: int = 0) -> Tensor:
    """Random Fourier features (Rahimi and Recht, 2007) of code vectors, each direction in its own unit.

    With their number the product of two codes' features tends to the Gaussian kernel exp(-|x - y|^2 / (2 BANDWIDTH^2))
    of their scaled vectors x and y, so that each code's has length 1; of two codes of different codebooks, to 0.

    The unit of a principal direction is (variance + s)^1/2, s the mean squared distance of a code to its nearest
    neighbour. Where the codes spread further than they lie apart that is their standard deviation; directions in which
    they do not, which a tokenizer has left unused, stay as small as they are. Whitened, these would drown the others.

    Args:
        codebooks: each (K, D), finite, not all the same vector; several if there are sub-quantizers, in their order.
        count: number of features, at least 1.
        seed: of frequencies and phases.

    Returns:
        (K, count) float32, codebook after codebook, on the CPU; the same to rounding on every machine.

    Raises:
        InputError: for fewer features, and codes that are no such matrix.
    """
    if count < 1:
        raise InputError(f"count is {count}; it must be at least 1")
    generator = torch.Generator().manual_seed(seed)
    features = []
    for codes in codebooks:
        if codes.ndim != 2 or not codes.isfinite().all():
            raise InputError(f"codes have shape {tuple(codes.shape)}; they must be (K, D) and finite")
        frequencies = torch.randn(codes.shape[1], count, generator=generator, dtype=torch.float64, device="cpu")
        phases = 2 * math.pi * torch.rand(count, generator=generator, dtype=torch.float64, device="cpu")
        angles = _scaled(codes.detach().cpu().double()) @ (frequencies / BANDWIDTH) + phases
        features.append((math.sqrt(2 / count) * angles.cos()).float())
    return torch.cat(features)


def _scaled(codes: Tensor) -> Tensor:
    """Codes (K, D) around 0, each principal direction divided by its unit; turned as little as possible.

    The symmetric matrix is the one that does not depend on how a machine orders and signs eigenvectors.
    """
    centred = codes - codes.mean(dim=0)
    variances, axes = torch.linalg.eigh(centred.mT @ centred / len(codes))
    if variances[-1] <= 0:
        raise InputError(f"all {len(codes)} codes are the same vector; they have no geometry")
    scales = (variances.clamp(min=0) + _squared_spacing(codes) + _ROUNDING * variances[-1]).rsqrt()
    return centred @ (axes * scales) @ axes.mT


def _squared_spacing(codes: Tensor) -> Tensor:
    """Mean squared distance of a code of (K, D) to the nearest other one, over at most 1,024 codes from all over."""
    chosen = torch.linspace(0, len(codes) - 1, min(len(codes), _NEIGHBOURS), device=codes.device).round().long()
    nearest = []
    for some in chosen.split(max(1, _BLOCK_ENTRIES // len(codes))):
        distances = torch.cdist(codes[some], codes, compute_mode="donot_use_mm_for_euclid_dist")
        nearest.append(distances.scatter_(1, some[:, None], torch.inf).amin(dim=1))
    return torch.cat(nearest).square().mean()


class CodeGeometry(nn.Module):
    """The learnt maps from the features of the codes to what is added to a prior's input table and output layer.

    They begin at zero, as if there were no geometry. With tied tables they are one. The features are no part of the
    state: they follow from the tokenizer's codes and a seed.

    Args:
        features: (K, F) of the codes.
        prior: whose tables it is for, with a vocabulary that begins with the K codes.
    """

    features: Tensor  # (V, F), zero for what is no code

    def __init__(self, features: Tensor, prior: PreTrainedModel):
        super().__init__()
        embedding = prior.get_input_embeddings()
        assert isinstance(embedding, nn.Embedding)
        padded = F.pad(features, (0, 0, 0, embedding.num_embeddings - len(features)))
        self.register_buffer("features", padded, persistent=False)
        self.input_map = nn.Parameter(torch.zeros(features.shape[1], embedding.embedding_dim))
        tied = prior.config.tie_word_embeddings
        self.output_map = self.input_map if tied else nn.Parameter(torch.zeros_like(self.input_map))

    def input_part(self, ids: Tensor) -> Tensor:
        """What is added to the embeddings of ids (...) in [0, V), (..., C)."""
        return F.embedding(ids, self.features).to(self.input_map.dtype) @ self.input_map

    def output_part(self, ids: Tensor | None = None) -> Tensor:
        """What is added to the output layer, (V, C), or to its rows of ids (N,) alone, (N, C)."""
        features = self.features if ids is None else F.embedding(ids, self.features)
        return features.to(self.output_map.dtype) @ self.output_map

    @torch.no_grad()
    def fold_into(self, prior: PreTrainedModel) -> None:
        """Give a prior new tables that are its own plus what is added to them; a collective call if maps are sharded.

        Args:
            prior: with plain weights, which stay as they are for whoever else has them.
        """
        embedding, head = prior.get_input_embeddings(), prior.get_output_embeddings()
        assert isinstance(embedding, nn.Embedding)
        assert isinstance(head, nn.Linear)
        head.weight = nn.Parameter(head.weight + self.features @ whole_tensor(self.output_map))
        if prior.config.tie_word_embeddings:
            embedding.weight = head.weight
        else:
            embedding.weight = nn.Parameter(embedding.weight + self.features @ whole_tensor(self.input_map))
