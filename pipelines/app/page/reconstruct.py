"""Tab: a picture beside its reconstruction."""

from typing import Any

import gradio as gr

from ..reconstructing import reconstruct
from ..uploads import data_url
from .context import Context
from .controls import class_field, picture_fields
from .parts import beside, picture_list


def reconstruct_tab(context: Context) -> None:
    """What the tokenizer keeps of a picture, and how many bits that is."""

    def show(name: Any, given: Any, class_name: Any) -> tuple[str, str]:
        model = context.model(name)
        image = context.picture(given, model)
        made = reconstruct(model, image, class_name)
        return data_url(image), beside((image, "picture"), (made.image, f"reconstruction: {made}"))

    def take(name: Any, number: Any, class_name: Any) -> tuple[Any, ...]:
        image, of_class = context.model(name).test_image(number)
        return *show(name, data_url(image), of_class or class_name), of_class or gr.skip()

    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            picture, of_class = picture_fields(context), class_field(context)
            gr.Markdown("The class is what the prior is told when it counts its bits.")
            button = gr.Button("Reconstruct again", variant="primary")
        with gr.Column(scale=2, min_width=300):
            result = picture_list("A picture is reconstructed here as soon as it is chosen.")
    context.on(picture.file.upload, show, [context.chosen, picture.file, of_class], [picture.file, result])
    context.on(button.click, show, [context.chosen, picture.file, of_class], [picture.file, result])
    context.on(picture.take.click, take, [context.chosen, picture.number, of_class], [picture.file, result, of_class])
