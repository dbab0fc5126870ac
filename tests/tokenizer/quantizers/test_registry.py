"""Quantizers by name: their options, types and defaults, and what is refused."""

import inspect
import math
import pydoc
from typing import Any

import numpy as np
import pytest

from wvq.tokenizer import (
    InputError,
    ProductQuantizer,
    ResidualQuantizer,
    VanillaQuantizer,
    WassersteinQuantizer,
    build_quantizer,
)
from wvq.tokenizer.quantizers.registry import (
    COMPOSITES,
    QUANTIZERS,
    Alignment,
    codes_per_vector,
    quantizer_options,
    quantizer_parameters,
)

OF_ALL = {
    "init_std": 0.01,
    "initialization": "data",
    "initialization_steps": 0,
    "gradient_estimator": "straight-through",
    "revival": 0.0,
}
LEARNT = {**OF_ALL, "commitment_weight": 1.0, "codebook_weight": 1.0}
PAPER = {**LEARNT, "commitment_weight": 0.1}
MATCHING = {**PAPER, "statistics_window": 8, "scale_free": True}
TRANSPORT = {"transport_step": 0.05, "decay": None}
DEFAULTS: dict[str, dict[str, Any]] = {
    "vanilla": LEARNT,
    "ema": {**OF_ALL, "commitment_weight": 1.0, "decay": 0.99},
    "online": {**LEARNT, "decay": 0.99, "anchor": "nearest"},
    "linear": {**LEARNT, "init_std": 1.0},
    "spherical": {**LEARNT, "init_std": 1.0, "commitment_weight": 0.25},
    "fsq": {"levels": None},
    "gaussian": {"commitment_weight": 0.25, "statistics_window": 8},
    "sinkhorn": {**LEARNT, "codebook_weight": 0.25, "epsilon": 0.1, "iterations": 5},
    "wasserstein": {**MATCHING, "wasserstein_weight": 0.5, "alignment": "loss", **TRANSPORT},
    "mmd": {**PAPER, "mmd_weight": 0.5, "max_points": 2048},
    "transport": {**MATCHING, **TRANSPORT},
}


def defaults(name: str, **options: Any) -> dict[str, Any]:
    return {option: parameter.default for option, parameter in quantizer_parameters(name, options).items()}


def test_every_quantizer_has_its_options_with_these_defaults():
    assert {name: defaults(name) for name in QUANTIZERS} == DEFAULTS
    for name in COMPOSITES:
        own = {"quantizers": 2, "quantizer": "wasserstein"}
        assert defaults(name) == own | DEFAULTS["wasserstein"]
        assert defaults(name, quantizer="linear") == own | DEFAULTS["linear"]
        assert quantizer_options(name) == tuple(defaults(name))


def test_options_have_types():
    types = {name: parameter.annotation for name, parameter in quantizer_parameters("wasserstein").items()}
    assert (types["statistics_window"], types["scale_free"], types["commitment_weight"]) == (int, bool, float)
    assert (types["alignment"], types["decay"]) == (Alignment, float | None)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_class_takes_its_arguments_by_name_and_tells_them_all(name: str):
    kind = QUANTIZERS[name]
    parameters = inspect.signature(kind).parameters
    assert {parameter.kind for parameter in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    own = {n: p.default for n, p in parameters.items() if n not in ("codebook_size", "codebook_dim")}
    assert own.items() <= DEFAULTS[name].items()
    page = pydoc.plain(pydoc.render_doc(kind))
    assert all(f"{option}: " in page for option in parameters)  # in the signature
    for option in own.keys() - OF_ALL.keys():  # those of all are explained by `Quantizer`
        assert f"    {option}: " in str(kind.__doc__)
    with pytest.raises(TypeError):
        kind(16, 4)  # pyright: ignore[reportCallIssue]


def test_names_and_options():
    assert isinstance(build_quantizer("vanilla", 4, 2), VanillaQuantizer)
    quantizer = build_quantizer("wasserstein", 64, 2, statistics_window=3, init_std=0.5)
    assert isinstance(quantizer, WassersteinQuantizer)
    assert len(quantizer.features.counts) == 3
    assert 0.4 < quantizer.codebook.std().item() < 0.6
    assert "wasserstein_weight" in quantizer_options("wasserstein")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("wassersteen", 16, 4), {}, r"quantizer is 'wassersteen' \(did you mean 'wasserstein'\?\); valid are vanilla"),
        (("none", 16, 4), {}, "quantizer is 'none'.*; valid are vanilla, ema, online, linear, spherical, fsq"),
        (("vanilla", 16, 4), {"gamma": 1}, "quantizer 'vanilla' has no option 'gamma'; it has init_std"),
        (("vanilla", 1, 4), {}, "codebook_size is 1; a codebook needs at least 2 codes"),
        (("vanilla", 16, 0), {}, "codebook_dim is 0; it must be at least 1"),
        (("vanilla", 16.0, 4), {}, "codebook_size is 16.0; it must be of type int"),
        (("vanilla", 16, 4), {"commitment_weight": -0.1}, "commitment_weight is -0.1; it must be at least 0"),
        (("ema", 16, 4), {"commitment_weight": None}, "commitment_weight is None; it must be of type float"),
        (("mmd", 16, 4), {"mmd_weight": math.nan}, "mmd_weight is nan; it must be at least 0"),
        (("vanilla", 16, 4), {"init_std": math.nan}, "init_std is nan; it must be finite"),
        (("vanilla", 16, 4), {"revival": math.inf}, "revival is inf; it must be finite"),
        (("online", 16, 4), {"decay": None}, "decay is None; it must be of type float"),
        (("sinkhorn", 16, 4), {"iterations": 2.5}, "iterations is 2.5; it must be of type int"),
        (("wasserstein", 16, 4), {"scale_free": 1}, "scale_free is 1; it must be of type bool"),
        (("wasserstein", 16, 4), {"transport_step": None}, "transport_step is None; it must be of type float"),
        (
            ("wasserstein", 16, 4),
            {"alignment": "transport", "wasserstein_weight": -1},
            "wasserstein_weight is -1; it must be at least 0",
        ),
        (("transport", 16, 4), {"decay": "0.9"}, r"decay is '0.9'; it must be of type float \| None"),
        (("vanilla", 16, 4), {"init_std": 0}, "init_std is 0; it must be above 0"),
        (("vanilla", 16, 4), {"initialization": "xavier"}, "initialization is 'xavier'; valid are normal, uniform"),
        (("ema", 16, 4), {"gradient_estimator": "none"}, "gradient_estimator is 'none'; valid are straight-through"),
        (("ema", 16, 4), {"decay": 1}, r"decay is 1; it must be in \[0, 1\)"),
        (("online", 16, 4), {"decay": -0.1}, r"decay is -0.1; it must be in \[0, 1\)"),
        (("mmd", 16, 4), {"max_points": 1}, "max_points is 1; it must be at least 2"),
        (("wasserstein", 16, 4), {"alignment": "map"}, "alignment is 'map'; valid are loss, transport"),
        (("wasserstein", 16, 4), {"transport_step": 2}, r"transport_step is 2; it must be in \[0, 1\]"),
        (
            ("wasserstein", 16, 4),
            {"decay": 1, "alignment": "transport"},
            r"decay is 1; it must be in \[0, 1\), or None",
        ),
        (("wasserstein", 16, 4), {"decay": 0.9}, "decay is 0.9, but alignment 'loss' moves the codes by gradient"),
        (("wasserstein", 4, 4), {}, "codebook_size is 4; it must be above codebook_dim, 4"),
        (("wasserstein", 16, 4), {"statistics_window": 0}, "statistics_window is 0; it must be at least 1 batch"),
        (("transport", 16, 4), {"transport_step": -1}, r"transport_step is -1; it must be in \[0, 1\]"),
        (("transport", 16, 4), {"alignment": "loss"}, "quantizer 'transport' has no option 'alignment'; it has"),
        (("fsq", 16, 4), {"levels": [4, 5]}, r"levels is \[4, 5\], of product 20; it must be codebook_size, 16"),
        (("fsq", 16, 4), {"levels": [16, 1]}, r"levels is \[16, 1\]; each must be an integer, at least 2"),
        (("fsq", 1000, 4), {"levels": [8, 5, 5.0, 5]}, "each must be an integer"),
        (("fsq", 22, 4), {}, "codebook_size is 22, which is no product of numbers from 4 to 8; give levels"),
        (("gaussian", 16, 4), {"statistics_window": 0}, "statistics_window is 0; it must be at least 1 batch"),
        (("sinkhorn", 16, 4), {"epsilon": 0.0}, "epsilon is 0.0; it must be above 0"),
        (("sinkhorn", 16, 4), {"iterations": 0}, "iterations is 0; it must be at least 1"),
        (("product", 16, 6), {"quantizers": 4}, "codebook_dim is 6; a product of 4 quantizers needs a multiple of"),
        (("product", 16, 4), {"quantizers": 1}, "quantizers is 1; it must be an integer from 2 to 256"),
        (("residual", 16, 4), {"quantizers": 10**9}, "quantizers is 1000000000; it must be an integer from 2 to 256"),
        (("residual", 16, 4), {"quantizers": 2.0}, "quantizers is 2.0; it must be an integer"),
        (("residual", 16, 4), {"quantizer": "product"}, "quantizer of 'residual' is 'product'; valid are vanilla"),
        (("residual", 16, 4), {"quantizer": "vanila"}, r"quantizer of 'residual' is 'vanila' \(did you mean 'vanilla'"),
        (("residual", 16, 4), {"quantizer": "ema", "alignment": "loss"}, "quantizer 'residual' has no option 'alignm"),
        (
            ("residual", 16, 4),
            {"quantizer": "fsq"},
            "one of the quantizers is a FSQuantizer, which learns by the",
        ),
        (("residual", 16, 4), {"quantizer": "ema", "decay": 1}, r"decay is 1; it must be in \[0, 1\)"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: tuple[str, int, int], options: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        build_quantizer(*arguments, **options)


def test_numbers_of_numpy_are_numbers():
    size: Any = np.int64(16)
    quantizer = build_quantizer("mmd", size, 4, mmd_weight=np.float64(0.25), init_std=np.float32(0.5))
    assert quantizer.codebook.shape == (16, 4)


def test_what_only_the_other_alignment_has_is_no_error():
    """A comparison that varies the alignment gives both the same options."""
    quantizer = build_quantizer("wasserstein", 16, 4, transport_step=0.5, wasserstein_weight=2.0)
    assert isinstance(quantizer, WassersteinQuantizer)
    assert quantizer.wasserstein_weight == 2.0
    build_quantizer("wasserstein", 16, 4, alignment="transport", wasserstein_weight=2.0)


def test_composites_of_alike_quantizers():
    product = build_quantizer("product", 16, 6, quantizers=3, quantizer="ema", decay=0.9)
    assert isinstance(product, ProductQuantizer)
    assert [one.codebook.shape for one in product.sub_quantizers] == [(16, 2)] * 3
    residual = build_quantizer("residual", 16, 6)
    assert isinstance(residual, ResidualQuantizer)
    assert [one.codebook.shape for one in residual.sub_quantizers] == [(16, 6)] * 2
    assert {type(one) for one in residual.sub_quantizers} == {WassersteinQuantizer}
    assert [codes_per_vector(*one) for one in (("product", {"quantizers": 3}), ("residual", {}), ("ema", {}))] == [
        3,
        2,
        1,
    ]
