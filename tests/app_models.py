"""Tiny models for the application, with test images."""

from pathlib import Path

from tiny_pipelines import tiny_pipeline, tiny_prior, tiny_tokenizer

from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.app.models import Model
from wvq.tokenizer.data import DataConfig, load_splits


def tiny_model(name: str = "tiny", data: Path | None = None, num_classes: int = 3) -> Model:
    """16 x 16 colour images, a grid of 4 x 4 positions, 32 codes; test images from a folder if one is given."""
    pipeline = tiny_pipeline(num_classes)
    config = DataConfig(str(data), image_size=16, channels=3)
    return Model(name, pipeline, None if data is None else load_splits(config)[1])


def two_codes_model() -> Model:
    """The same with two codes at each position, of two codebooks of 32 codes."""
    options = {"quantizers": 2, "quantizer": "wasserstein", "init_std": 1.0}
    tokenizer = tiny_tokenizer(quantizer="residual", quantizer_options=options)
    prior = tiny_prior(num_codes=64, num_tokens=32)
    prior.config.codes_per_position = 2
    pipeline = ClassConditionalPipeline(tokenizer, prior)
    pipeline.set_progress_bar_config(disable=True)
    return Model("two codes", pipeline, None)


def no_report(done: int, total: int) -> None:
    """An `OnStep` for who waits."""
