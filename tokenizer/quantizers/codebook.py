"""What the quantizers share whose codes are a table that is drawn at the start and then follows the features."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ..distributed import rows_of_all_processes
from ..errors import InputError
from .base import Quantizer
from .gradient import GradientEstimator, check_gradient_estimator, rotation_trick, straight_through
from .initialization import FROM_DATA, FirstVectors, Initialization, check_initialization, draw_codebook
from .revival import Revival, check_revival


@dataclass(kw_only=True, eq=False, repr=False)
class CodebookQuantizer(Quantizer):
    """A table of codes, `weight` (K, D): where it starts, and what becomes of codes that nothing chooses.

    Codes from data are drawn after the first step in which enough vectors have been seen, over all processes: K for
    "data", 4 K for "kmeans++". Until then features pass as they are, unquantized, and every term of the loss is 0, with
    gradients of 0, so that nothing but the reconstruction moves the network; the codes that evaluation mode quantizes
    by are the latest vectors.

    Args:
        codebook_size, codebook_dim: see `Quantizer`.
        init_std: standard deviation of the normal distribution from which the codes are drawn; 0.01 is the paper's
            (arXiv 2506.15078).
        initialization: from the first vectors of the training, "data" (drawn at random) or "kmeans++" (spread out); or
            "normal", or "uniform" (between -1/K and 1/K), at once.
        initialization_steps: optimizer steps before which codes are not drawn from data, but features pass unquantized;
            they are then drawn from the latest vectors.
        gradient_estimator: "straight-through" or "rotation".
        revival: dead codes, those with less than this share of the mean use, are moved to vectors of the step; in
            [0, 1), 0 for none. See `Revival`.

    Raises:
        InputError: for an option outside these bounds, or a name that there is not.
    """

    step_terms: ClassVar[tuple[str, ...]] = ()  # names of those of `codebook_step`

    init_std: float = 0.01
    initialization: Initialization = "data"
    initialization_steps: int = 0
    gradient_estimator: GradientEstimator = "straight-through"
    revival: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init_std <= 0:
            raise InputError(f"init_std is {self.init_std}; it must be above 0")
        check_initialization(self.initialization, self.initialization_steps)
        check_gradient_estimator(self.gradient_estimator)
        check_revival(self.revival)
        codes = draw_codebook(self.initialization, self.codebook_size, self.codebook_dim, self.init_std)
        self.weight = nn.Parameter(codes)
        self.initialized: Tensor
        self.register_buffer("initialized", torch.tensor(not self.starts_from_data))
        self._known_to_be_drawn = not self.starts_from_data  # for good, so that a device is not asked again
        self.first_vectors: FirstVectors | None = None
        if self.initialization in FROM_DATA:
            self.first_vectors = FirstVectors(self.initialization, self.codebook_size, self.initialization_steps)
        self.dead_codes = Revival(self.codebook_size, self.revival) if self.revival else None

    @property
    def codebook(self) -> Tensor:
        return self.weight

    @property
    def starts_from_data(self) -> bool:
        """Whether the codes are drawn from vectors."""
        return self.initialization in FROM_DATA

    @property
    def waiting(self) -> bool:
        self._known_to_be_drawn = self._known_to_be_drawn or bool(self.initialized)
        return not self._known_to_be_drawn

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **keywords: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **keywords)
        self._known_to_be_drawn = not self.initialized.is_meta and bool(self.initialized)

    @property
    def repeatable(self) -> bool:
        return super().repeatable and not self.starts_from_data and not self.revival

    def set_codes(self, codes: Tensor) -> None:
        """Replace the codebook by codes (K, D)."""
        self.weight.data.copy_(codes)

    @torch.no_grad()
    def start_as(self, other: Self) -> None:
        """Take the parameters of another quantizer of this kind, and what the host knows of its start."""
        for own, theirs in zip(self.parameters(), other.parameters(), strict=True):
            own.copy_(theirs)
        self._known_to_be_drawn = other._known_to_be_drawn

    def estimate(self, vectors: Tensor, quantized: Tensor) -> Tensor:
        return (rotation_trick if self.gradient_estimator == "rotation" else straight_through)(vectors, quantized)

    def end_step(self, vectors: Tensor, indices: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        if self.waiting:
            self._collect(rows_of_all_processes(vectors))
            return None, dict.fromkeys(self.step_terms, vectors.new_zeros(()))
        loss, terms = self.codebook_step(vectors, indices)
        if self.dead_codes is not None:
            self.dead_codes.replace(self.weight.data, vectors, indices)
        return loss, terms

    @torch.no_grad()
    def _collect(self, vectors: Tensor) -> None:
        assert self.first_vectors is not None
        if vectors.any():  # a residual quantizer leaves nothing over where the quantizer before waits itself
            codes, drawn = self.first_vectors.push(vectors)
            self.set_codes(codes)
            self.initialized.fill_(drawn)
            self._known_to_be_drawn = drawn
