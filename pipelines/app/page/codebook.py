"""Tab: which codes are used, and the map of all of them."""

from typing import Any

import gradio as gr

from ..code_map import CodeMaps
from ..usage import count_usage, usage_picture
from ..values import whole_number
from .context import PROGRESS, Context
from .parts import beside, picture_list

_MOST_IMAGES = 10_000


def codebook_tab(context: Context, maps: CodeMaps) -> None:
    """Figures, and two pictures of the same map: what each code decodes to, and how often it is chosen."""

    def show(name: Any, images: Any, codebook: Any, progress: gr.Progress = PROGRESS) -> tuple[str, str]:
        model = context.model(name)
        count = whole_number("number of test images", images, 1, _MOST_IMAGES)
        part = whole_number("codebook", codebook, 0, model.config.codes_per_position - 1)
        usage = count_usage(model, count, context.on_step(progress, "images"))
        cells, picture = maps.of(model, part, context.on_step(progress, "codes"))
        counted = usage_picture(cells, usage.counts[part])
        sides = beside((picture, "what each code decodes to"), (counted, "how often: darker is more, red is never"))
        return "  \n".join(str(usage).splitlines()), sides

    several = any(model.config.codes_per_position > 1 for model in context.models)
    some = any(model.test_images is not None for model in context.models)
    gr.Markdown(
        "Codes lie in the same places in both pictures: along the first principal direction of the codebook from left "
        "to right, and along the second from top to bottom."
        if some
        else "Usage is counted over test images; start `wvq app` with `--data.source` to have them."
    )
    with gr.Row(visible=some):
        images = gr.Number(label=f"Test images, at most {_MOST_IMAGES:,}", value=1000, precision=0, min_width=140)
        codebook = gr.Number(label="Codebook", value=0, precision=0, visible=several, min_width=140)
        button = gr.Button("Count", variant="primary", min_width=140, elem_classes="low")
    figures = gr.Markdown()
    pictures = picture_list("“Count” shows the codes in use here.")
    context.on(button.click, show, [context.chosen, images, codebook], [figures, pictures])
