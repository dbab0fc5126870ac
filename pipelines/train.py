"""`wvq train-prior`: stage two, and both stages together as a pipeline."""

from pathlib import Path

from wvq.prior.train import PriorTraining, train_prior
from wvq.tokenizer import VQTokenizer

from .class_conditional import ClassConditionalPipeline, load_prior


def train_pipeline(config: PriorTraining) -> Path:
    """Train a prior, or finish training it, and save it with its tokenizer; returns the folder of the pipeline.

    Raises:
        InputError: as `wvq.prior.train.train_prior`.
    """
    prior = load_prior(train_prior(config))
    folder = Path(config.output_dir) / "pipeline"
    if not folder.exists():
        tokenizer = VQTokenizer.from_pretrained(config.tokenizer)
        ClassConditionalPipeline(tokenizer, prior, prior.config.class_names).save_pretrained(folder)
    return folder
