"""Tab: the tokens of a picture, one of them replaced by a neighbour in the codebook, or by any code of a map."""

from typing import Any

import gradio as gr
import torch
from torch import Tensor

from wvq.tokenizer import InputError

from ..code_map import CodeMaps
from ..models import Model
from ..token_grid import around, as_text, code_at, decode, encode, from_text, neighbours, position_of, replaced
from ..uploads import data_url
from ..values import whole_number
from .context import PROGRESS, Context
from .controls import picture_fields
from .parts import cell_grid, choice_buttons, choices, on_grid

_NEIGHBOURS = 12


def tokens_tab(context: Context, maps: CodeMaps) -> None:
    """Codes as text, which is all that the tab knows: whatever is chosen changes the text and decodes it."""

    def lay(model: Model, indices: Tensor, position: int | None, codebook: Any) -> tuple[Any, Any]:
        """Text and grid of indices."""
        part = whole_number("codebook", codebook, 0, model.config.codes_per_position - 1)
        image = decode(model.pipeline.tokenizer, indices[None])[0]
        labels = indices.view(-1, model.config.codes_per_position)[:, part].tolist()
        chosen = [] if position is None else [position]
        return as_text(indices), on_grid(image, *model.config.grid_shape, chosen, [str(label) for label in labels])

    def lay_picture(name: Any, given: Any, codebook: Any) -> tuple[Any, ...]:
        model = context.model(name)
        image = context.picture(given, model)
        return data_url(image), *lay(model, encode(model.pipeline.tokenizer, image), None, codebook), gr.update(body="")

    def lay_again(name: Any, given: Any, codebook: Any) -> tuple[Any, ...]:
        """For another pipeline, whose map is another as well."""
        laid = lay_picture(name, given, codebook)[1:] if given else ("", gr.skip(), gr.skip())
        return *laid, gr.update(value="", picture="")

    def take(name: Any, number: Any, codebook: Any) -> tuple[Any, ...]:
        image, _ = context.model(name).test_image(number)
        return lay_picture(name, data_url(image), codebook)

    def lay_text(name: Any, text: Any, codebook: Any) -> tuple[Any, ...]:
        model = context.model(name)
        return *lay(model, from_text(text, model.config), None, codebook), gr.update(body="")

    def show_neighbours(name: Any, text: Any, position: Any, codebook: Any) -> dict[str, Any]:
        model = context.model(name)
        indices = from_text(text, model.config)
        return gr.update(body=neighbour_buttons(model, indices, position, codebook))

    def neighbour_buttons(model: Model, indices: Tensor, position: Any, codebook: Any) -> str:
        config, tokenizer = model.config, model.pipeline.tokenizer
        cell, part, code = code_at(indices, position, codebook, config)
        near = neighbours(tokenizer.codebooks[part], code, _NEIGHBOURS)
        codes = torch.cat([near.new_tensor([code]), near])
        images = decode(tokenizer, replaced(indices, cell, part, codes, config))
        captions = [f"code {code}, as it is", *(f"code {other}" for other in near.tolist())]
        return choices(around(images, cell, config), codes.tolist(), captions)

    def replace(name: Any, text: Any, position: Any, codebook: Any, choice: Any) -> tuple[Any, ...]:
        model = context.model(name)
        config = model.config
        indices = from_text(text, config)
        cell, part, _ = code_at(indices, position, codebook, config)
        digits = isinstance(choice, str) and choice.isascii() and choice.isdecimal() and len(choice) < 18
        code = whole_number("code", int(choice) if digits else choice, 0, config.codebook_size - 1)
        changed = replaced(indices, cell, part, torch.tensor([code], device="cpu"), config)[0]
        return *lay(model, changed, cell, codebook), gr.update(body=neighbour_buttons(model, changed, cell, codebook))

    def show_map(name: Any, codebook: Any, progress: gr.Progress = PROGRESS) -> dict[str, Any]:
        model = context.model(name)
        part = whole_number("codebook", codebook, 0, model.config.codes_per_position - 1)
        cells, picture = maps.of(model, part, context.on_step(progress, "codes"))
        labels = ["-" if code < 0 else str(code) for code in cells.flatten().tolist()]
        rows, columns = cells.shape
        return on_grid(picture, rows, columns, labels=labels)

    def replace_by_map(
        name: Any, text: Any, position: Any, codebook: Any, map_cell: Any, progress: gr.Progress = PROGRESS
    ) -> tuple[Any, ...]:
        model = context.model(name)
        part = whole_number("codebook", codebook, 0, model.config.codes_per_position - 1)
        position_of(position, model.config)
        codes = maps.of(model, part, context.on_step(progress, "codes"))[0].flatten()
        cell = whole_number(
            "cell of the map", float(map_cell) if str(map_cell).isdecimal() else map_cell, 0, len(codes) - 1
        )
        if codes[cell] < 0:
            raise InputError("this cell of the map is empty; choose another")
        return replace(name, text, position, codebook, int(codes[cell]))

    several = any(model.config.codes_per_position > 1 for model in context.models)
    with gr.Row():
        with gr.Column(min_width=300):
            picture = picture_fields(context)
            grid = cell_grid("The picture, decoded: choose a token", "Take a picture to see its tokens.")
            codebook = gr.Number(label="Codebook of the codes at a position", value=0, precision=0, visible=several)
            text = gr.Textbox(label="Codes", lines=4, max_lines=12)
            decode_button = gr.Button("Decode these codes")
        with gr.Column(min_width=300):
            gr.Markdown("Click a token: its nearest codes appear here, each as it would look in its place.")
            near = choice_buttons()
            map_button = gr.Button("Show the map of all codes")
            code_map = cell_grid("All codes, sorted: choose one for the token", "")
    chosen = context.chosen
    laid = [picture.file, text, grid, near]
    context.on(picture.file.upload, lay_picture, [chosen, picture.file, codebook], laid)
    context.on(picture.take.click, take, [chosen, picture.number, codebook], laid)
    context.on(chosen.change, lay_again, [chosen, picture.file, codebook], [text, grid, near, code_map])
    context.on(decode_button.click, lay_text, [chosen, text, codebook], [text, grid, near])
    context.on(grid.select, show_neighbours, [chosen, text, grid, codebook], near)
    context.on(near.select, replace, [chosen, text, grid, codebook, near], [text, grid, near])
    context.on(map_button.click, show_map, [chosen, codebook], code_map)
    context.on(code_map.select, replace_by_map, [chosen, text, grid, codebook, code_map], [text, grid, near])
