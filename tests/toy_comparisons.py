"""A comparison of two methods that takes seconds."""

from pathlib import Path

from wvq.eval.comparison.compare import Comparison, Method
from wvq.pipelines.generation import SamplingOptions
from wvq.pipelines.train_prior import PriorTraining
from wvq.pipelines.train_tokenizer import TokenizerTraining
from wvq.prior.model import PriorSize
from wvq.tokenizer import TokenizerConfig
from wvq.tokenizer.data.config import DataConfig


def toy_comparison(folder: Path, images: Path) -> Comparison:
    data = DataConfig(source=str(images), channels=1)
    model = TokenizerConfig(channels=1, base_channels=8, channel_multipliers=(1, 1, 1), num_blocks=1,
                            latent_channels=8, codebook_size=32, codebook_dim=4)  # fmt: skip
    return Comparison(
        output_dir=str(folder),
        data=data,
        methods={"plain": Method("vanilla", {"commitment_weight": 0.1}), "matched": Method("wasserstein")},
        tokenizer=TokenizerTraining(data=data, model=model, steps=4, warmup_steps=1, batch_size=16, evaluate_every=2),
        prior=PriorTraining(model=PriorSize(hidden_size=16, num_layers=1, num_heads=2), steps=3, warmup_steps=1,
                            batch_size=16, sample_every=0),
        sampling=SamplingOptions(guidance_scale=1.5, batch_size=7),
        num_generated=20,
        extractor="efficientnet-lite0",
    )  # fmt: skip
