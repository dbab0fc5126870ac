"""The picture of a sweep, of whatever options its settings differ in."""

import io
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from wvq.eval.sweep import figure
from wvq.eval.sweep.figure import sweep_figure
from wvq.eval.sweep.grid import option_text
from wvq.eval.sweep.scoring import ScoredSetting
from wvq.pipelines.generation import SamplingOptions


@pytest.fixture
def axes(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """Those of every figure that is drawn."""
    drawn, quiet_figure = [], figure.quiet_figure

    def kept(*size: Any) -> Any:
        picture, its_axes = quiet_figure(*size)
        drawn.append(its_axes)
        return picture, its_axes

    monkeypatch.setattr(figure, "quiet_figure", kept)
    return drawn


def drawn(*settings: dict[str, Any]) -> bytes:
    """The picture of settings, the first of which is the best."""
    scores = [{"fid": {"value": float(number), "score": "FID"}} for number in range(len(settings))]
    return sweep_figure([ScoredSetting(SamplingOptions(**s), one) for s, one in zip(settings, scores, strict=True)])


@pytest.mark.parametrize(
    ("option", "values", "ordered"),
    [
        ("guidance_interval", ((0, 8), None), (None, (0, 8))),
        ("guidance_interval", ((10, 12), (4, 8), (4, 6)), ((4, 6), (4, 8), (10, 12))),
        ("block_size", (32, "auto", 8), ("auto", 8, 32)),
        ("guidance_scale", (3.0, 1.0, 1.5), (1.0, 1.5, 3.0)),
    ],
)
def test_values_of_any_option_have_places_in_their_order(
    axes: list[Axes], option: str, values: tuple[Any, ...], ordered: tuple[Any, ...]
) -> None:
    with Image.open(io.BytesIO(drawn(*({option: value} for value in values)))) as picture:
        assert min(picture.size) > 500
    (own,) = axes
    assert own.get_xlabel() == option.replace("_", " ")
    places = ordered if option == "guidance_scale" else range(len(ordered))
    assert list(own.get_xticks()) == list(places)
    assert [text.get_text() for text in own.get_xticklabels()] == [option_text(value) for value in ordered]
    assert np.asarray(own.get_lines()[0].get_ydata()).tolist() == [values.index(value) for value in ordered]


def test_values_of_any_option_order_the_lines(axes: list[Axes]) -> None:
    intervals = ((4, 8), None, (0, 8))
    drawn(*({"guidance_scale": scale, "guidance_interval": one} for scale in (1.0, 2.0) for one in intervals))
    labels = [line.get_label() for line in axes[0].get_lines()]
    assert labels == [f"guidance interval {text}" for text in ("null", "[0, 8]", "[4, 8]")] + ["best"]
