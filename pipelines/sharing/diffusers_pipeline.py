"""The pipeline as diffusers loads it: `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from transformers import PreTrainedModel

from wvq.pipelines.class_conditional import ClassConditionalPipeline
from wvq.pipelines.labels import ClassLabels
from wvq.tokenizer import InputError, VQTokenizer

OnStep = Callable[["DiffusersPipeline", int, int, dict[str, Any]], Any] | PipelineCallback | MultiPipelineCallbacks


class DiffusersPipeline(DiffusionPipeline):
    """A `ClassConditionalPipeline` with diffusers' interface; for the same generator it draws the same images.

    Diffusers makes it from a saved pipeline. Its components are those of the pipeline inside, which does the work.

    Args:
        tokenizer, prior: of `ClassConditionalPipeline`.
        id2label: names of the prior's classes by their numbers, in order; None to use numbers only.

    Raises:
        InputError: if tokenizer, prior and names do not belong together.

    Example:
        >>> pipeline = DiffusionPipeline.from_pretrained("runs/prior/pipeline", trust_remote_code=True)
        >>> images = pipeline(["Sneaker", "Bag"], num_images_per_label=4, guidance_scale=2.0).images
    """

    tokenizer: VQTokenizer
    prior: PreTrainedModel

    def __init__(self, tokenizer: VQTokenizer, prior: PreTrainedModel, id2label: dict[str, str] | None = None):
        super().__init__()
        self.inside = ClassConditionalPipeline(tokenizer, prior, [*(id2label or {}).values()])
        self.register_modules(tokenizer=tokenizer, prior=prior)
        self.register_to_config(id2label=id2label or {})

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ("tokenizer", "prior") and self.inside.components[name] is not value:
            parts: dict[str, Any] = {**self.inside.components, name: value}
            self.inside = ClassConditionalPipeline(**parts, class_names=self.inside.class_names)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: ClassLabels | None = None,
        num_images_per_label: int = 1,
        guidance_scale: float = 1.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: OnStep | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("tokens",),
        **options: Any,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate num_images_per_label images for each of class_labels, in that order.

        Args:
            class_labels, num_images_per_label, guidance_scale, generator, output_type, options: see
                `ClassConditionalPipeline`; options are temperature, top_k, top_p, min_p and those that follow there.
            return_dict: whether to return diffusers' `ImagePipelineOutput` instead of a tuple.
            callback_on_step_end: called after each token as (pipeline, position, number of tokens, tensors). What it
                returns is not used: a token that was drawn stays.
            callback_on_step_end_tensor_inputs: which tensors it is given; there is "tokens", those so far, (N, n).

        Raises:
            InputError: for a class or a tensor that does not exist, or an argument out of its range.
        """
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        if unknown := set(callback_on_step_end_tensor_inputs) - {"tokens"}:
            raise InputError(f"callback_on_step_end_tensor_inputs has '{min(unknown)}'; valid is tokens")

        def on_step(inside: Any, position: int, num_tokens: int, tensors: dict[str, Any]) -> None:
            given = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
            assert callback_on_step_end is not None
            callback_on_step_end(self, position, num_tokens, given)

        self.inside.set_progress_bar_config(**getattr(self, "_progress_bar_config", {}))
        images = self.inside(
            class_labels,
            num_images_per_label=num_images_per_label,
            guidance_scale=guidance_scale,
            generator=generator,
            output_type=output_type,
            callback_on_step_end=on_step if callback_on_step_end else None,
            **options,
        ).images
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the components, cast them, or both, as `DiffusionPipeline.to`."""
        self.inside.to(*args, **{name: kwargs[name] for name in ("device", "dtype") if name in kwargs})
        return super().to(*args, **kwargs)

    def save_pretrained(self, save_directory: str | Path) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write the folder that all loaders read; see `ClassConditionalPipeline.save_pretrained`."""
        self.inside.save_pretrained(save_directory)

    def push_to_hub(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, repo_id: str, private: bool = False, token: str | bool | None = None, revision: str | None = None
    ) -> str:
        """Save into the hub's repository repo_id; see `ClassConditionalPipeline.push_to_hub`."""
        return self.inside.push_to_hub(repo_id, private, token, revision)
