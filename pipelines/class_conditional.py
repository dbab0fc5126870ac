"""Classes to images: sample tokens from the prior, decode them with the tokenizer."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel, LlamaForCausalLM

from wvq.prior import sample_tokens
from wvq.prior.guidance import GuidanceSchedule, check_guidance
from wvq.prior.likelihood import bits_per, log_likelihood
from wvq.prior.loading import load_prior, without_bars
from wvq.prior.model import PRIOR_CLASSES
from wvq.prior.next_scale import sample_scales, scales_of
from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.blocks import in_blocks
from wvq.tokenizer.data.decoding import to_model
from wvq.tokenizer.progress import progress_bar

from .base import ImagePipelineOutput, Images, check_output_type, format_images, given_pixels, to_pixels
from .editing.pipeline import EditingPipeline
from .labels import ClassLabels, labels_of, names_in_index

_FOR_DIFFUSERS = '"""How diffusers finds the code of this folder: in the package wvq, which has to be installed."""\n\n'
SHIMS = {
    "pipeline.py": f"{_FOR_DIFFUSERS}from wvq.pipelines.sharing.diffusers_pipeline import (\n"
    "    DiffusersPipeline as ClassConditionalPipeline,\n)\n",
    "tokenizer/wvq.tokenizer.py": f"{_FOR_DIFFUSERS}from wvq.tokenizer import VQTokenizer\n",
}


class ClassConditionalPipeline(EditingPipeline):
    """Generates images of given classes, or without any for a prior trained without classes.

    Args:
        tokenizer: stage one.
        prior: stage two, trained on that tokenizer's tokens.
        class_names: names of the prior's classes, in the order of their labels; () to use numbers only.

    Raises:
        InputError: if tokenizer, prior and names do not belong together.

    Example:
        >>> pipeline = ClassConditionalPipeline.from_pretrained("runs/demo/wasserstein-0/prior/pipeline")
        >>> images = pipeline(["horse", "ship"], num_images_per_label=4, guidance_scale=3.0).images
    """

    component_classes: ClassVar = {
        "tokenizer": ("wvq.tokenizer", "VQTokenizer"),
        "prior": ("transformers", *(known.__name__ for known in PRIOR_CLASSES.values())),
    }
    component_loaders: ClassVar = {"tokenizer": VQTokenizer.from_pretrained, "prior": load_prior}
    shims: ClassVar = SHIMS

    prior: LlamaForCausalLM | GPT2LMHeadModel

    def __init__(self, tokenizer: VQTokenizer, prior: nn.Module, class_names: Sequence[str] = ()):
        super().__init__(tokenizer=tokenizer, prior=prior)
        self.class_names = tuple(class_names)
        config = self.prior.config
        expected = (tokenizer.config.num_codes, tokenizer.config.num_tokens)
        if (config.num_codes, config.num_tokens) != expected:
            raise InputError(
                f"the prior was made for {config.num_codes} codes and {config.num_tokens} tokens an image, "
                f"the tokenizer has {expected[0]} and {expected[1]}; they do not belong together"
            )
        per_position = getattr(config, "codes_per_position", 1)
        for what, own, its in (
            ("codes at each position", per_position, tokenizer.config.codes_per_position),
            ("as scales", scales_of(self.prior), tokenizer.config.scales),
        ):
            if own != its:
                raise InputError(
                    f"the prior was made for {own} {what}, the tokenizer has {its}; they do not belong together"
                )
        trained_on = getattr(config, "tokenizer_fingerprint", None)
        if trained_on is not None and trained_on != (own := tokenizer.fingerprint):
            same_tokens = getattr(config, "token_fingerprint", None) == tokenizer.token_fingerprint
            if not same_tokens and tokenizer.rounded_from.get(own) != trained_on:
                raise InputError(
                    f"the prior was trained on tokens of tokenizer {trained_on[:12]}, this tokenizer is "
                    f"{own[:12]}; they do not belong together"
                    + ("" if tokenizer.dtype == torch.float32 else " (cast the pipeline, not the tokenizer before it)")
                )
            config.tokenizer_fingerprint = own
        if self.class_names and len(self.class_names) != config.num_classes:
            raise InputError(
                f"{len(self.class_names)} class_names were given, the prior has {config.num_classes} classes"
            )

    def to(self, *targets: torch.device | str | int | torch.dtype, **keywords: Any) -> Self:
        before = self.tokenizer.dtype
        super().to(*targets, **keywords)
        if self.tokenizer.dtype != before and getattr(self.prior.config, "tokenizer_fingerprint", None) is not None:
            self.prior.config.tokenizer_fingerprint = self.tokenizer.fingerprint  # the rounded one belongs to it too
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        with without_bars():
            super().save_pretrained(folder)

    def index(self) -> dict[str, Any]:
        return super().index() | {"id2label": dict(enumerate(self.class_names))}

    @classmethod
    def extra_arguments(cls, index: dict[str, Any]) -> dict[str, Any]:
        """The names of the classes, from model_index.json.

        Raises:
            InputError: if they are no list of strings.
        """
        return {"class_names": names_in_index(index)}

    def labels_of(self, class_labels: ClassLabels | None) -> Tensor:
        """Labels (N,), int64, of class numbers or names; None, for a prior without classes, is its one null class.

        Raises:
            InputError: for a class that does not exist; near matches are suggested.
        """
        num_classes = self.prior.config.num_classes
        if class_labels is None:
            if num_classes:
                raise InputError(f"class_labels is None; this prior has {num_classes} classes, give numbers or names")
            return torch.zeros(1, dtype=torch.int64)
        if not num_classes:
            raise InputError(f"class_labels is {class_labels!r}; this prior has no classes, it takes only None")
        return labels_of(class_labels, self.class_names, num_classes)

    def __call__(
        self,
        class_labels: ClassLabels | None = None,
        num_images_per_label: int = 1,
        guidance_scale: float = 1.0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Self, int, int, dict[str, Any]], Any] | None = None,
        guidance_schedule: GuidanceSchedule = "constant",
        guidance_interval: tuple[int, int] | None = None,
        known_tokens: Tensor | None = None,
        best_of: int = 1,
        dtype: torch.dtype | None = None,
        block_size: int | None = None,
        num_passes: int | None = None,
    ) -> ImagePipelineOutput | Any:
        """Generate num_images_per_label images for each of class_labels, in that order.

        Args:
            class_labels: numbers or names of classes, one or several; None for a prior without classes.
            guidance_scale, temperature, top_k, top_p, min_p, guidance_schedule, guidance_interval, dtype, num_passes:
                see `wvq.prior.sample_tokens`.
            generator: one, or one per image, which makes its pixels independent of the others in the batch, to the last
                bits if a `block_size` is given as well.
            output_type: "pil", "np", "pt", "uint8" or "latent" (the tokenizer's indices).
            return_dict: whether to return `ImagePipelineOutput` instead of a tuple.
            callback_on_step_end: called after each token, pass or scale as (pipeline, position, number of tokens,
                {"tokens": so far}).
            known_tokens: indices of the N images as the tokenizer gives them, (N, h, w), (N, h, w, M) or, of scales,
                (N, T), -1 where one is to be drawn.
            best_of: candidates drawn for each image, of which the one that the prior finds most probable is kept.
            block_size: images that both models compute together, see there.

        Raises:
            InputError: for a class that does not exist or an argument out of its range.
        """
        check_output_type(output_type)
        for name, value in (("num_images_per_label", num_images_per_label), ("best_of", best_of)):
            if value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1")
        labels = self.labels_of(class_labels).repeat_interleave(num_images_per_label)
        check_guidance(guidance_scale, self.prior.config.num_classes)
        config = self.prior.config
        if known_tokens is not None:
            expected = (len(labels), *self.tokenizer.config.indices_shape)
            if tuple(known_tokens.shape) != expected:
                raise InputError(f"known_tokens has shape {tuple(known_tokens.shape)}; it must be {expected}")
            known_tokens = self.tokenizer.to_sequence(known_tokens).repeat_interleave(best_of, dim=0)
        if isinstance(generator, Sequence):
            generator = [own for own in generator for _ in range(best_of)]
        labels = labels.repeat_interleave(best_of)
        bar: dict[str, Any] = {"desc": "sampling", "unit": "token", **self._progress_bar_config}
        with progress_bar(total=config.num_tokens, **bar) as progress:

            def on_token(position: int, tokens: Tensor) -> None:
                progress.update(position + 1 - progress.n)
                if callback_on_step_end:
                    callback_on_step_end(self, position, config.num_tokens, {"tokens": tokens})

            own_grid = partial(sample_tokens, grid_shape=self.tokenizer.config.grid_shape)
            tokens = (sample_scales if self.tokenizer.config.scales else own_grid)(
                self.prior,
                class_labels=labels,
                num_tokens=config.num_tokens,
                num_codes=config.num_codes,
                guidance_scale=guidance_scale,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                generator=generator,
                on_token=on_token,
                guidance_schedule=guidance_schedule,
                guidance_interval=guidance_interval,
                known_tokens=known_tokens,
                dtype=dtype,
                codes_per_position=self.tokenizer.config.codes_per_position,
                block_size=block_size,
                num_passes=num_passes,
            )
            progress.update(config.num_tokens - progress.n)  # known tokens after the last that was drawn
        if best_of > 1:
            scores = self._log_likelihood(tokens, labels).view(-1, best_of)
            tokens = tokens[scores.argmax(dim=1) + best_of * torch.arange(len(scores), device=scores.device)]
        indices = self.tokenizer.from_sequence(tokens)
        if output_type == "latent":
            images: Any = indices
        else:
            rows = block_size or (None if isinstance(generator, Sequence) else len(indices))
            images = format_images(to_pixels(in_blocks(self.tokenizer.decode, indices, rows)), output_type)
        return ImagePipelineOutput(images) if return_dict else (images,)

    def likelihood(self, images: Images, class_labels: ClassLabels | None = None) -> dict[str, Tensor]:
        """How well the prior predicts the tokens of images: {"bits_per_token": (N,), "bits_per_pixel": (N,)}, float64.

        Of the tokens, not of the pixels: what the tokenizer does not keep costs nothing. A pixel has all its channels.

        Args:
            images: uint8 (N, C, H, W) of the tokenizer's size, or a PIL image or several, of any size.
            class_labels: numbers or names of their classes, one for each; None for a prior without classes.

        Raises:
            InputError: for images of another shape or type, or another number of labels.
        """
        given = given_pixels(images, self.tokenizer.config)
        tokens = self.tokenizer.to_sequence(self.tokenizer.encode(to_model(given.to(self.device))))
        labels = self.labels_of(class_labels)
        labels = labels.expand(len(given)) if class_labels is None else labels
        nats = self._log_likelihood(tokens, labels)
        pixels = given.shape[-1] * given.shape[-2]
        return {"bits_per_token": bits_per(nats, tokens.shape[1]), "bits_per_pixel": bits_per(nats, pixels)}

    def _log_likelihood(self, tokens: Tensor, labels: Tensor) -> Tensor:
        config = self.tokenizer.config
        return log_likelihood(
            self.prior, tokens, labels, config.num_codes, codes_per_position=config.codes_per_position
        )
