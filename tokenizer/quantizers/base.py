"""What all quantizers share: the way from vectors to codes, what is a step, the shape of the output.

Legend of the shape letters in this package:
    B batch, C colour channels, H, W image height and width, h, w grid of tokens, T = h * w tokens of an image,
    N vectors (all positions of a batch), K codes (codebook_size), D dimension of a code (codebook_dim).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from types import SimpleNamespace
from typing import Any, ClassVar, Self, get_type_hints

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..decided_there import may_ask, moved_only_where
from ..distributed import minimum_over_processes
from ..errors import InputError, NonFiniteError, check_range
from ..precision import full_precision, keeping_dtype
from .gradient import straight_through
from .nearest import nearest_codes

_NUMBERS: dict[Any, type] = {bool: bool, int: Integral, float: Real, float | None: Real}


@dataclass
class QuantizerOutput:
    """What a quantizer returns.

    Attributes:
        quantized: the codes, shaped and typed like the input, with the gradient of the estimator.
        indices: int64 in [0, K), the input's shape without the channel axis.
        loss: scalar to add to the reconstruction loss.
        terms: each loss term by name, detached and without its weight.
    """

    quantized: Tensor
    indices: Tensor
    loss: Tensor
    terms: dict[str, Tensor]


@dataclass(kw_only=True, eq=False, repr=False)
class Quantizer(nn.Module):
    """Base of the quantizers: the way from vectors to codes (K, D) and back.

    A quantizer is a dataclass: its options are its fields, and each class names only those that it adds or whose
    default it changes.

    Always computed in float32, whatever autocast says and the module is cast to: half precision merges neighbouring
    codes. In training mode each forward with gradients enabled belongs to an optimizer step; where gradients are
    accumulated, set `accumulation_steps` to the forwards of a step, and codes and statistics move once, with all its
    vectors. The forwards of a step that is not made are forgotten by `abandon_step`, `eval` and `load_state_dict`.
    Every statistic is that of all processes.

    Args:
        codebook_size: K >= 2.
        codebook_dim: D >= 1.

    Raises:
        InputError: for an argument outside these bounds, a number that is none or not finite, and a weight below 0.
    """

    codebook_size: int
    codebook_dim: int

    learns_by_loss: ClassVar[bool] = True
    """Whether its own loss reaches all its parameters, so that the gradient of what it gives out is not needed."""

    def __post_init__(self) -> None:
        super().__init__()  # leaves the fields, which are plain values, as they are
        check_numbers(type(self), {option.name: getattr(self, option.name) for option in fields(self)})
        if self.codebook_size < 2:
            raise InputError(f"codebook_size is {self.codebook_size}; a codebook needs at least 2 codes")
        if self.codebook_dim < 1:
            raise InputError(f"codebook_dim is {self.codebook_dim}; it must be at least 1")
        self.accumulation_steps = 1
        # Of this step's forwards: vectors, indices, and whether all features were finite, if only the device knows.
        self._seen: list[tuple[Tensor, Tensor, Tensor | None]] = []

    @property
    def codebook(self) -> Tensor:
        """The codes, (K, D)."""
        raise NotImplementedError(f"{type(self).__name__} defines no codebook")

    def lookup(self, indices: Tensor) -> Tensor:
        """Codes of indices (...) in [0, K), as (..., D)."""
        return F.embedding(indices, self.codebook)

    @property
    def waiting(self) -> bool:
        """Whether there are no codes yet, so that features pass as they are in training."""
        return False

    @property
    def repeatable(self) -> bool:
        """Whether a forward can be repeated in the backward pass: no codes or statistics have moved since."""
        return type(self).codebook_step is Quantizer.codebook_step

    def project(self, vectors: Tensor) -> Tensor:
        """Vectors (N, D) to where the codes are, (N, D): what is quantized."""
        return vectors

    def assign(self, vectors: Tensor) -> Tensor:
        """Index of the code of each of the projected vectors (N, D), detached; (N,) int64 in [0, K)."""
        return nearest_codes(vectors, self.codebook.detach())

    def unrounded(self, vectors: Tensor) -> Tensor:
        """What the codes of projected vectors (N, D) would be if there were one everywhere, (N, D)."""
        return vectors

    def unquantized(self, z: Tensor) -> Tensor:
        """What would come out of z (B, D, *spatial) if nothing were rounded, shaped like it, in float32: of it, which
        lies where the codes do, the codes are an approximation."""
        with torch.autocast(z.device.type, enabled=False), full_precision():
            vectors = self.unrounded(self.project(rearrange(z.float(), "b d ... -> (b ...) d")))
        return rearrange(vectors, "(b n) d -> b d n", b=len(z)).reshape(z.shape)

    def estimate(self, vectors: Tensor, quantized: Tensor) -> Tensor:
        """The codes (N, D) of projected vectors (N, D) with the gradient that these are to have."""
        return straight_through(vectors, quantized)

    def objective(self, vectors: Tensor, quantized: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (a scalar) and its terms for projected vectors (N, D) and their codes (N, D), both with their graph."""
        raise NotImplementedError(f"{type(self).__name__} defines no objective")  # what each quantizer is

    def codebook_step(self, vectors: Tensor, indices: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Once per optimizer step in training: move codes and statistics; a loss on the codebook as a whole, or None.

        Called with this process's projected vectors (N, D) of the step, detached, and their indices (N,), after the
        codes of the forward have been looked up.
        """
        return None, {}

    def end_step(self, vectors: Tensor, indices: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        """What follows the last forward of an optimizer step, with vectors (N, D) and indices (N,): `codebook_step`."""
        return self.codebook_step(vectors, indices)

    def abandon_step(self) -> None:
        """Forget the forwards of an optimizer step that will not be made."""
        self._seen = []

    def train(self, mode: bool = True) -> Self:
        """Training mode, or evaluation mode, in which no step is left half seen."""
        if not mode:
            self.abandon_step()
        return super().train(mode)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **keywords: Any) -> None:
        self.abandon_step()
        super()._load_from_state_dict(state_dict, prefix, *args, **keywords)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        return super()._apply(keeping_dtype(fn), recurse)

    def forward(self, z: Tensor, indices: Tensor | None = None) -> QuantizerOutput:
        """Quantize z, (B, D, *spatial) or (N, D), of a floating-point type.

        Args:
            z: what is quantized.
            indices: (N,), where `assign` has been asked for them before; found here by default.

        Raises:
            InputError: if z is empty, not floating-point, or its axis 1 is not D; in a backward pass, where activation
                checkpointing repeats a forward after which codes or statistics have moved.
            NonFiniteError: if z is not finite; in training on all processes if it is so on one. Not in training on a
                GPU, nor where this is compiled, which would have to wait for the answer: there such a forward moves no
                codes and no statistics, and gives NaN.
        """
        # While it waits for data it asks all the same: what is collected then is no tensor that could be put back.
        finite = check_input(z, self.codebook_dim, self.training, asks=not self.training or self.waiting)
        counts = self.training and torch.is_grad_enabled()
        if counts and not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            # inside a backward pass
            counts = False
            self._check_repeatable()
        with torch.autocast(z.device.type, enabled=False), full_precision():
            vectors = self.project(rearrange(z.float(), "b d ... -> (b ...) d"))
            indices = self.assign(vectors.detach()) if indices is None else indices
            quantized = self.lookup(indices)
            loss, terms = self.objective(vectors, quantized)
            passed = self.estimate(vectors, quantized)
            if counts and self.waiting:
                # Multiplied, not left out: several processes wait for a gradient of every parameter.
                passed, loss, terms = vectors, 0 * loss, {name: 0 * term for name, term in terms.items()}
            if counts:
                self._seen.append((vectors.detach(), indices, finite))
                if len(self._seen) >= self.accumulation_steps:
                    seen, self._seen = self._seen, []
                    all_vectors, all_indices, flags = zip(*seen, strict=True)
                    open_flags = [flag for flag in flags if flag is not None]
                    moves = torch.stack(open_flags).all() if open_flags else None
                    with moved_only_where(moves, [*self.parameters(), *self.buffers()]):
                        extra, extra_terms = self.end_step(torch.cat(all_vectors), torch.cat(all_indices))
                    # The loop divides each forward's loss by their number; this one is computed in the last alone.
                    terms |= {name: term * len(seen) for name, term in extra_terms.items()}
                    if extra is not None:
                        loss = loss + extra * len(seen)
        grid = rearrange(passed, "(b n) d -> b d n", b=len(z)).reshape(z.shape)
        return QuantizerOutput(
            quantized=grid.to(z.dtype),
            indices=indices.reshape(z.shape[0], *z.shape[2:]),
            loss=loss,
            terms={name: term.detach() for name, term in terms.items()},
        )

    def _check_repeatable(self) -> None:
        if not self.repeatable:
            raise InputError(
                f"{type(self).__name__} was called again in a backward pass, as activation checkpointing does, but its "
                "codes or statistics have moved since; leave the quantizer out of what is checkpointed"
            )

    def extra_repr(self) -> str:
        return f"codebook_size={self.codebook_size}, codebook_dim={self.codebook_dim}"


def check_input(z: Tensor, dim: int, on_all_processes: bool, asks: bool) -> Tensor | None:
    """Check what is to be quantized; whether it is finite, on all processes if so asked: a collective call then.

    Args:
        asks: whether the host waits for a device to know whether z is finite. Where it does not, and while a graph is
            compiled, that is returned, a bool scalar there.

    Raises:
        InputError: naming what is wrong with z.
        NonFiniteError: if z is known not to be finite.
    """
    if not z.is_floating_point():
        raise InputError(f"z has dtype {z.dtype}; it must be floating-point")
    if z.ndim < 2 or z.shape[1] != dim:
        raise InputError(f"z has shape {tuple(z.shape)}; axis 1 must be codebook_dim, {dim}")
    if z.numel() == 0:
        raise InputError(f"z has shape {tuple(z.shape)}; it holds no vector")
    own = z.isfinite().all()
    finite = minimum_over_processes(own.int()).bool() if on_all_processes else own
    if not may_ask(z.device) and (not asks or torch.compiler.is_compiling()):
        return finite
    if not finite:
        nan, infinite = int(z.isnan().sum()), int(z.isinf().sum())
        place = ", and that of another process is not finite" if own else ""
        raise NonFiniteError(
            f"z holds {nan} NaN and {infinite} infinite values of {z.numel()}{place}; every feature must be finite "
            f"(a lower learning rate or clipped gradients keep an encoder from running away)"
        )
    return None


def commitment_and_codebook_loss(vectors: Tensor, quantized: Tensor) -> tuple[Tensor, Tensor]:
    """The two halves of the VQ-VAE loss (arXiv 1711.00937, equation 3), as means over all N*D elements.

    The first moves the vectors to their codes, the second the codes to their vectors.
    """
    return F.mse_loss(vectors, quantized.detach()), F.mse_loss(quantized, vectors.detach())


def check_numbers(kind: type[Quantizer], options: Mapping[str, Any]) -> None:
    """Check those options of a quantizer that are numbers.

    Raises:
        InputError: for a number of another type, one that is not finite, and a weight below 0.
    """
    hints = get_type_hints(kind)
    for name, value in options.items():
        hint = hints[name]
        if hint not in _NUMBERS or (value is None and hint == float | None):
            continue
        if not isinstance(value, _NUMBERS[hint]) or isinstance(value, bool) != (hint is bool):
            wanted = hint.__name__ if isinstance(hint, type) else hint
            raise InputError(f"{name} is {value!r}; it must be of type {wanted}")
        if hint is not int:
            check_range(SimpleNamespace(**{name: value}), name, least=0 if name.endswith("_weight") else -math.inf)
