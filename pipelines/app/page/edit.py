"""Tab: a part of a picture is marked and drawn anew."""

from typing import Any

import gradio as gr
from torch import Tensor

from ..drawing import below, draw_marked
from ..models import Model
from ..uploads import data_url
from ..values import sampling_options, whole_number
from .context import PROGRESS, Context
from .controls import class_field, number_field, picture_fields, sampling_fields
from .parts import cell_grid, marked_cells, on_grid, picture_list, pictures


def edit_tab(context: Context) -> None:
    """A picture, what of it is kept, and several ways to go on from there."""

    def laid(model: Model, image: Tensor) -> dict[str, Any]:
        return on_grid(image, *model.config.grid_shape)

    def lay(name: Any, given: Any) -> tuple[Any, ...]:
        model = context.model(name)
        image = context.picture(given, model)
        return data_url(image), laid(model, image)

    def lay_again(name: Any, given: Any) -> Any:
        return lay(name, given)[1] if given else gr.skip()

    def take(name: Any, number: Any) -> tuple[Any, ...]:
        model = context.model(name)
        image, of_class = model.test_image(number)
        return data_url(image), laid(model, image), of_class or gr.skip()

    def mark_below(name: Any, rows: Any) -> dict[str, Any]:
        shape = context.model(name).config.grid_shape
        kept = whole_number("rows", rows, 0, shape[0])
        return gr.update(value=" ".join(map(str, below(kept, shape))))

    def show(
        name: Any, given: Any, marks: Any, class_name: Any, number: Any, *options: Any,
        progress: gr.Progress = PROGRESS,
    ) -> str:  # fmt: skip
        model = context.model(name)
        image = context.picture(given, model)
        marked = marked_cells(marks, model.config.num_positions)
        count = whole_number("number of images", number, 1, context.limits.max_images)
        drawn = draw_marked(
            model, image, marked, class_name, count, sampling_options(*options), context.on_step(progress)
        )
        return pictures(drawn, [str(i) for i in range(count)], "edited")

    with gr.Row():
        with gr.Column(min_width=300):
            picture = picture_fields(context)
            grid = cell_grid(
                "The picture: mark what is to be drawn anew", "Take a picture, then mark a part of it.", True
            )
            gr.Markdown("Paint over what is to be drawn anew, or keep the upper rows and have the rest drawn.")
            with gr.Row():
                rows = gr.Number(label="Rows of tokens to keep", value=2, precision=0, min_width=120)
                keep = gr.Button("Mark the rows below", min_width=140, elem_classes="low")
        with gr.Column(min_width=300):
            of_class, number = class_field(context), number_field(context, 8)
            options = sampling_fields(context)
            button = gr.Button("Draw the marked part", variant="primary")
            gallery = picture_list()
    context.on(picture.file.upload, lay, [context.chosen, picture.file], [picture.file, grid])
    context.on(picture.take.click, take, [context.chosen, picture.number], [picture.file, grid, of_class])
    context.on(context.chosen.change, lay_again, [context.chosen, picture.file], grid)
    context.on(keep.click, mark_below, [context.chosen, rows], grid)
    context.on(button.click, show, [context.chosen, picture.file, grid, of_class, number, *options], gallery)
