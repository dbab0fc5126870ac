"""The score against the guidance, a line for each temperature and truncation."""

import io
from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle
from typing import Any

from ..report.figures import FONT_SIZE, PALETTE, SEED_DASHES, quiet_figure
from .grid import in_words, option_text, varied_options
from .scoring import ScoredSetting

_MARKERS = ("o", "^", "s", "D", "v")
_BEST = {"marker": "*", "markersize": 15, "color": "none", "markeredgecolor": "black", "linestyle": "none"}


def sweep_figure(results: Sequence[ScoredSetting]) -> bytes:
    """A PNG of the Fréchet distances: along the guidance scale or, where that is the same in all settings, along the
    first option that differs. Settings that differ in the other options are on lines of their own, and a star is at
    the best."""
    varied = varied_options([each.setting for each in results])
    along = varied[0] if varied else "guidance_scale"  # the fields begin with the guidance scale
    others = [name for name in varied if name != along]
    lines: dict[str, list[ScoredSetting]] = defaultdict(list)
    for each in sorted(results, key=lambda each: [_order(getattr(each.setting, name)) for name in others]):
        lines[in_words(each.setting, others)].append(each)
    figure, axes = quiet_figure(7.6 if others else 5.3, max(3.4, 0.24 * len(lines) + 1))
    places = sorted({getattr(each.setting, along) for each in results}, key=_order)
    numeric = all(isinstance(place, int | float) and not isinstance(place, bool) for place in places)
    styles = zip(cycle(PALETTE), cycle(_MARKERS), (d for d in cycle(SEED_DASHES) for _ in PALETTE), strict=False)
    position = {place: place if numeric else number for number, place in enumerate(places)}
    for (label, line), (color, marker, dashes) in zip(lines.items(), styles, strict=False):
        line.sort(key=lambda each: position[getattr(each.setting, along)])
        x, y = [position[getattr(each.setting, along)] for each in line], [each.distance for each in line]
        linestyle = (0, dashes) if dashes else "solid"
        axes.plot(x, y, label=label, color=color, marker=marker, linestyle=linestyle, markersize=4.5, linewidth=1.5)
    best = min(results, key=lambda each: each.distance)
    axes.plot([position[getattr(best.setting, along)]], [best.distance], label="best", zorder=4, **_BEST)
    if not numeric or len(places) <= 10:
        axes.set_xticks(list(position.values()), [option_text(place) for place in places])
    axes.set_xlabel(along.replace("_", " "))
    axes.set_ylabel(best.scores["fid"]["score"])
    if others:
        figure.legend(loc="outside right upper", frameon=False, fontsize=FONT_SIZE)
    else:
        axes.legend(handles=axes.get_lines()[-1:], frameon=False, fontsize=FONT_SIZE)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=200, metadata={"Software": None})
    return content.getvalue()


def _order(value: Any) -> tuple[int, Any]:
    """By which values of an option are sorted, of whatever types: None, words, numbers, intervals."""
    types = (type(None), str, int | float, tuple)
    rank = next(rank for rank, one in enumerate(types) if isinstance(value, one))
    return rank, 0 if value is None else value
