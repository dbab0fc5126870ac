"""The parts of the page that Gradio has not: pictures, a picture under a grid of cells, a file, buttons with pictures.

Pictures travel as data URLs, in both directions. So the server neither keeps nor opens a file for anybody.
"""

import html
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import gradio as gr
from torch import Tensor

from wvq.tokenizer import InputError
from wvq.tokenizer.data.decoding import SUFFIXES

from ..uploads import data_url
from ..values import a_text

_GRID = """${picture ? `<div class="cells ${marking ? "marking" : ""}" tabindex="0" role="application"
 aria-roledescription="grid: arrow keys move, the space key chooses" aria-label="${name}">
<img src="${picture}" alt=""><svg viewBox="0 0 ${columns} ${rows}" preserveAspectRatio="none"></svg></div>
<p class="where" aria-live="polite"></p>` : `<p class="empty">${empty}</p>`}"""
_FILE = """<label class="file">Own picture<input type="file" accept="${accept}"><p role="alert"></p></label>"""


def _script(name: str) -> str:
    return files("wvq.pipelines.app.page").joinpath(name).read_text("utf-8")


def pictures(images: Tensor, captions: Sequence[str], name: str) -> str:
    """Images (N, C, H, W), uint8, side by side; each is a link to itself as a file."""
    figures = []
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        url, text = data_url(image.cpu()), html.escape(caption)
        link = f'<a href="{url}" download="{name}-{number}.png"><img src="{url}" alt="{text or name} {number}"></a>'
        figures.append(f"<figure>{link}<figcaption>{text}</figcaption></figure>")
    return f'<div class="pictures">{"".join(figures)}</div>'


def beside(*sides: tuple[Tensor, str]) -> str:
    """Images (C, H, W), uint8, beside each other, each with its caption."""
    figures = [
        f'<figure><img src="{data_url(image.cpu())}" alt="{html.escape(caption)}"><figcaption>{html.escape(caption)}'
        "</figcaption></figure>"
        for image, caption in sides
    ]
    return f'<div class="sides">{"".join(figures)}</div>'


def choices(images: Tensor, values: Sequence[int], captions: Sequence[str]) -> str:
    """A button for each image (N, C, H, W), uint8."""
    buttons = []
    for image, value, caption in zip(images, values, captions, strict=True):
        text = html.escape(caption)
        picture = f'<img src="{data_url(image)}" alt="{text}">'
        button = f'<button type="button" data-choice="{value}">{picture}</button>'
        buttons.append(f"<figure>{button}<figcaption>{text}</figcaption></figure>")
    return f'<div class="pictures">{"".join(buttons)}</div>'


def picture_list(empty: str) -> gr.HTML:
    """Where `pictures` or `beside` go; `empty` is said there before."""
    return gr.HTML(value=f"<p>{html.escape(empty)}</p>", js_on_load=None)


def choice_buttons() -> gr.HTML:
    """Where `choices` go, as its prop `body`; its value is the choice, its event `select`."""
    return gr.HTML(value="", body="", html_template="${body}", js_on_load=_script("choices.js"))


def cell_grid(name: str, empty: str, marking: bool = False) -> gr.HTML:
    """A picture under a grid; `on_grid` fills it. Its event is `select`, unless cells are marked.

    Args:
        name: for screen readers.
        empty: what is said where there is no picture yet.
        marking: whether several cells are marked, instead of one chosen.
    """
    return gr.HTML(
        value="", name=name, empty=empty, marking=marking, picture="", rows=1, columns=1, labels="",
        html_template=_GRID, js_on_load=_script("grid.js"),
    )  # fmt: skip


def on_grid(
    picture: Tensor, rows: int, columns: int, chosen: Sequence[int] = (), labels: Sequence[str] = ()
) -> dict[str, Any]:
    """The update of a `cell_grid`: a picture, uint8 (C, H, W), its cells, and those that are chosen or marked."""
    return gr.update(
        value=" ".join(map(str, chosen)), picture=data_url(picture.cpu()), rows=rows, columns=columns,
        labels=" ".join(labels),
    )  # fmt: skip


def marked_cells(value: Any, cells: int) -> list[int]:
    """What a marking `cell_grid` sends, as numbers below `cells`.

    Raises:
        InputError: for anything else.
    """
    words = a_text("marked positions", value or "", 8 * cells).split()
    if not all(word.isascii() and word.isdecimal() and int(word[:9]) < cells for word in words):
        raise InputError(f"marked positions are {value!r:.40}; valid are numbers from 0 to {cells - 1}")
    return sorted({int(word) for word in words})


def file_field(max_bytes: int) -> gr.HTML:
    """A field for a picture of one's own: its value is a data URL, its event `upload`."""
    return gr.HTML(
        value="", max_bytes=max_bytes, accept=",".join(SUFFIXES), html_template=_FILE, js_on_load=_script("upload.js")
    )
