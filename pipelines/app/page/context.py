"""What every tab is given: the models, the limits, and how a part of the page calls Python."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from torch import Tensor

from wvq.tokenizer import InputError

from ..limits import Limits
from ..models import Model
from ..uploads import read_picture
from ..values import OnStep, within

PROGRESS = gr.Progress()
"""The default of a parameter in whose place Gradio puts the bar of the request."""


@dataclass(frozen=True)
class Context:
    """Shared by all tabs.

    Attributes:
        models: one or two.
        limits: of what a user may ask for.
        chosen: the part of the page that names the model in use.
    """

    models: Sequence[Model]
    limits: Limits
    chosen: gr.Radio

    def model(self, name: Any) -> Model:
        """Raises: InputError: for a name that no model has."""
        for model in self.models:
            if model.name == name:
                return model
        raise InputError(f"pipeline {name!r:.60} is not shown here; valid are {', '.join(m.name for m in self.models)}")

    def picture(self, given: Any, model: Model) -> Tensor:
        """The picture in a `file_field`, uint8 (C, H, W), for a model; raises InputError as `read_picture`."""
        return read_picture(given, model.config, self.limits.max_bytes, self.limits.max_pixels)

    def on_step(self, progress: gr.Progress, unit: str = "tokens") -> OnStep:
        """Shows how far a computation is, and ends it when its time is over."""

        def report(done: int, total: int) -> None:
            progress((done, total), unit=unit)

        return within(self.limits.max_seconds, report)

    def on(self, listen: Callable[..., Any], function: Callable[..., Any], inputs: Any, outputs: Any) -> Any:
        """Have an event of the page call a function, one call after another, whoever asks."""
        return listen(
            function, inputs, outputs, concurrency_id="models", concurrency_limit=1, api_visibility="private",
            show_progress="full",
        )  # fmt: skip
