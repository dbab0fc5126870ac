"""Tab: two pipelines draw with the same seeds."""

from typing import Any

import gradio as gr

from ..drawing import draw
from ..values import sampling_options, whole_number
from .context import PROGRESS, Context
from .controls import class_field, number_field, sampling_fields
from .parts import picture_list, pictures


def compare_tab(context: Context) -> None:
    """Image i of both is drawn with the same random numbers."""

    def show(class_name: Any, number: Any, *options: Any, progress: gr.Progress = PROGRESS) -> list[str]:
        count = whole_number("number of images", number, 1, context.limits.max_images)
        on_step = context.on_step(progress)
        galleries = []
        for side, model in enumerate(context.models):
            images, classes = draw(model, class_name, count, sampling_options(*options), on_step)
            galleries.append(pictures(images, [f"{i} {of}" for i, of in enumerate(classes)], f"pipeline-{side}"))
        return galleries

    with gr.Row():
        of_class, number = class_field(context, all_in_turn=True), number_field(context, 12)
    options = sampling_fields(context)
    button = gr.Button("Draw with both", variant="primary")
    with gr.Row():
        galleries = []
        for model in context.models:
            with gr.Column(min_width=140):
                gr.Markdown(f"**{model.name}**")
                galleries.append(picture_list("“Draw with both” shows images here."))
    context.on(button.click, show, [of_class, number, *options], galleries)
