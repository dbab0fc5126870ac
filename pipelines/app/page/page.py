"""The page: its tabs, its looks, and what it answers when a request cannot be met."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import gradio as gr
import torch
from gradio.themes.default import Default
from gradio.themes.utils.fonts import Font

from wvq.tokenizer import InputError
from wvq.tokenizer.errors import plain_message

from ..code_map import CodeMaps
from ..limits import Limits
from ..models import Model
from .codebook import codebook_tab
from .compare import compare_tab
from .context import Context
from .draw import draw_tab
from .edit import edit_tab
from .reconstruct import reconstruct_tab
from .tokens import tokens_tab

_SESSIONS = 32  # whose fields the server remembers; a page sends all of its own with each request


class Page(gr.Blocks):
    """Blocks whose errors are sentences: what is wrong with a request is said where it was made, and nowhere else."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *arguments: Any, **keywords: Any) -> Any:
        try:
            if not all(value is None or isinstance(value, str | int | float) for value in inputs):
                raise TypeError  # Gradio would copy any file that is named in a dict, whatever field it is sent for
            return await super().preprocess_data(block_fn, inputs, *arguments, **keywords)
        except gr.Error as error:
            raise gr.Error(error.message[:200], print_exception=False) from error
        except Exception as error:  # of any type: a component was sent what its field on the page never sends
            raise gr.Error("a field has a value that this page does not send", print_exception=False) from error

    async def call_function(self, *arguments: Any, **keywords: Any) -> Any:
        try:
            return await super().call_function(*arguments, **keywords)
        except InputError as error:
            raise gr.Error(plain_message(error), print_exception=False) from error
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise gr.Error("there is too little memory for this; draw fewer images", print_exception=False) from error
        except Exception as error:  # a defect: its traceback goes to the terminal, not to the page
            raise gr.Error("this has failed in the application itself; its terminal says how") from error


def build_page(models: Sequence[Model], limits: Limits) -> Page:
    """The application's page for one or two models."""
    names, maps = [model.name for model in models], CodeMaps()
    with Page(title="wvq", analytics_enabled=False) as page:
        gr.Markdown(f"# wvq\n{'' if len(models) > 1 else names[0]}")
        chosen = gr.Radio(names, value=names[0], label="Pipeline", visible=len(models) > 1)
        context = Context(models, limits, chosen)
        with gr.Tab("Draw"):
            draw_tab(context)
        with gr.Tab("Edit"):
            edit_tab(context)
        with gr.Tab("Tokens"):
            tokens_tab(context, maps)
        with gr.Tab("Reconstruct"):
            reconstruct_tab(context)
        with gr.Tab("Codebook"):
            codebook_tab(context, maps)
        if len(models) > 1:
            with gr.Tab("Compare"):
                compare_tab(context)
    page.queue(max_size=limits.max_waiting, api_open=False)
    page.state_session_capacity = _SESSIONS
    return page


def looks() -> dict[str, Any]:
    """Theme and style sheet: fonts of the system, so that nothing is fetched from elsewhere."""
    fonts = [Font(name) for name in ("system-ui", "sans-serif")]
    mono = [Font(name) for name in ("ui-monospace", "monospace")]
    style = files("wvq.pipelines.app.page").joinpath("style.css").read_text("utf-8")
    return {"theme": Default(font=fonts, font_mono=mono), "css": style}
