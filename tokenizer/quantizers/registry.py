"""Quantizers by name, as a recipe gives them, and the options that each of them has."""

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping
from inspect import Parameter
from typing import Any, Literal, get_args

from ..errors import InputError
from .base import Quantizer, check_numbers
from .baselines.ema import EMAQuantizer
from .baselines.fixed_gaussian import GaussianQuantizer
from .baselines.fsq import FSQuantizer
from .baselines.linear import LinearQuantizer
from .baselines.online import OnlineQuantizer
from .baselines.sinkhorn import SinkhornQuantizer
from .baselines.spherical import SphericalQuantizer
from .composite import CompositeQuantizer, ProductQuantizer, ResidualQuantizer
from .mmd import MMDQuantizer
from .transport import TransportQuantizer, check_transport_step
from .vanilla import VanillaQuantizer
from .wasserstein import WassersteinQuantizer

QUANTIZERS: dict[str, type[Quantizer]] = {
    "vanilla": VanillaQuantizer,
    "ema": EMAQuantizer,
    "online": OnlineQuantizer,
    "linear": LinearQuantizer,
    "spherical": SphericalQuantizer,
    "fsq": FSQuantizer,
    "gaussian": GaussianQuantizer,
    "sinkhorn": SinkhornQuantizer,
    "wasserstein": WassersteinQuantizer,
    "mmd": MMDQuantizer,
    "transport": TransportQuantizer,
}
COMPOSITES: dict[str, type[CompositeQuantizer]] = {"product": ProductQuantizer, "residual": ResidualQuantizer}
MAX_SUB_QUANTIZERS = 256  # a configuration from elsewhere cannot ask for modules without end

Alignment = Literal["loss", "transport"]


def build_quantizer(name: str, codebook_size: int, codebook_dim: int, **options: Any) -> Quantizer | CompositeQuantizer:
    """The quantizer called `name`, with the options of its class.

    "wasserstein" has the option alignment as well: with "transport" it is the quantizer of that name. "product" and
    "residual" are made of `quantizers` sub-quantizers, all called `quantizer`, which get the other options: each has
    codebook_size codes; those of a product share codebook_dim out among them.

    Raises:
        InputError: for an unknown name or option, the message lists the valid ones; for values that do not fit.
    """
    _check_name("quantizer", name, [*QUANTIZERS, *COMPOSITES])
    accepted = quantizer_parameters(name, options)
    unknown = sorted(set(options) - set(accepted))
    if unknown:
        raise InputError(f"quantizer '{name}' has no option '{unknown[0]}'; it has {', '.join(accepted)}")
    build = _build_composite if name in COMPOSITES else _build_single
    return build(name, codebook_size, codebook_dim, **options)


def quantizer_parameters(name: str, options: Mapping[str, Any] | None = None) -> dict[str, Parameter]:
    """The options of the quantizer called `name` with their types and defaults, codebook_size and codebook_dim apart.

    Those of a composite are its own and those of the sub-quantizers that `options` ask for.

    Raises:
        InputError: for sub-quantizers of an unknown name.
    """
    if name in COMPOSITES:
        own = _options_of(_build_composite)
        kind = (options or {}).get("quantizer", own["quantizer"].default)
        _check_name(f"quantizer of '{name}'", kind, list(QUANTIZERS))
        return own | quantizer_parameters(kind)
    if name == "wasserstein":
        return _options_of(WassersteinQuantizer) | _options_of(_build_aligned) | _options_of(TransportQuantizer)
    return _options_of(QUANTIZERS[name])


def quantizer_options(name: str) -> tuple[str, ...]:
    """Names of the options of the quantizer called `name`, codebook_size and codebook_dim apart."""
    return tuple(quantizer_parameters(name))


def codes_per_vector(name: str, options: Mapping[str, Any]) -> int:
    """Codes that stand for one vector: a composite has one of each sub-quantizer."""
    if name not in COMPOSITES:
        return 1
    return options.get("quantizers", _options_of(_build_composite)["quantizers"].default)


def _build_composite(
    name: str, size: int, dim: int, *, quantizers: int = 2, quantizer: str = "wasserstein", **options: Any
) -> CompositeQuantizer:
    if type(quantizers) is not int or not 2 <= quantizers <= MAX_SUB_QUANTIZERS:
        raise InputError(f"quantizers is {quantizers!r}; it must be an integer from 2 to {MAX_SUB_QUANTIZERS}")
    if name == "product":
        if dim % quantizers:
            raise InputError(f"codebook_dim is {dim}; a product of {quantizers} quantizers needs a multiple of that")
        dim //= quantizers
    alike = [_build_single(quantizer, size, dim, **options) for _ in range(quantizers)]
    return COMPOSITES[name](*alike)


def _build_single(name: str, size: int, dim: int, **options: Any) -> Quantizer:
    if name == "wasserstein":
        return _build_aligned(size, dim, **options)
    return QUANTIZERS[name](codebook_size=size, codebook_dim=dim, **options)


def _build_aligned(
    size: int, dim: int, *, alignment: Alignment = "loss", **options: Any
) -> WassersteinQuantizer | TransportQuantizer:
    """What only the other alignment has is checked and has no effect, so that a comparison can vary the alignment."""
    if alignment not in get_args(Alignment):
        raise InputError(f"alignment is '{alignment}'; valid are {', '.join(get_args(Alignment))}")
    kind = TransportQuantizer if alignment == "transport" else WassersteinQuantizer
    for each in (WassersteinQuantizer, TransportQuantizer):
        check_numbers(each, {name: value for name, value in options.items() if name in _options_of(each)})
    check_transport_step(options.get("transport_step", 0.0))
    if alignment == "loss" and (decay := options.get("decay")) is not None:
        raise InputError(f"decay is {decay}, but alignment 'loss' moves the codes by gradient; it must be None")
    own = {name: value for name, value in options.items() if name in _options_of(kind)}
    return kind(codebook_size=size, codebook_dim=dim, **own)


def _options_of(build: Callable[..., Any]) -> dict[str, Parameter]:
    parameters = inspect.signature(build).parameters.items()
    return {
        name: parameter
        for name, parameter in parameters
        if parameter.kind is Parameter.KEYWORD_ONLY and name not in ("codebook_size", "codebook_dim")
    }


def _check_name(argument: str, name: str, valid: Collection[str]) -> None:
    if name not in valid:
        near = difflib.get_close_matches(str(name), valid, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise InputError(f"{argument} is '{name}'{hint}; valid are {', '.join(valid)}")
