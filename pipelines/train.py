"""`wvq train-prior`: stage two, and both stages together as a pipeline."""

from pathlib import Path

from wvq.prior.train import PriorTraining, train_prior
from wvq.tokenizer import VQTokenizer
from wvq.tokenizer.collective import on_first_process
from wvq.tokenizer.saving import remove_unfinished

from .class_conditional import ClassConditionalPipeline, load_prior


def train_pipeline(config: PriorTraining) -> Path:
    """Train a prior, or finish training it, and save it with its tokenizer; returns the folder of the pipeline.

    Raises:
        InputError: as `wvq.prior.train.train_prior`.
    """
    model, folder = train_prior(config), Path(config.output_dir) / "pipeline"

    def write() -> None:
        remove_unfinished(folder.parent, "pipeline-*")
        if not folder.exists():
            prior, tokenizer = load_prior(model), VQTokenizer.from_pretrained(config.tokenizer)
            ClassConditionalPipeline(tokenizer, prior, prior.config.class_names).save_pretrained(folder)

    on_first_process(write)
    return folder
