"""`wvq train-prior`: stage two, and both stages together as a pipeline."""

import math
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers import PreTrainedModel

from wvq.prior.code_geometry import CodeGeometry, code_features
from wvq.prior.loading import load_prior, without_bars
from wvq.prior.loss import TokenLoss
from wvq.prior.model import SIZES, PriorConfig, PriorSize, build_prior, transformer_layers
from wvq.prior.next_scale import sample_scales
from wvq.prior.ngram_baselines import baseline_bits, code_counts
from wvq.prior.order.sequences import training_orders, validation_orders
from wvq.prior.order.target_positions import TargetPositions
from wvq.prior.sampled_softmax import Proposal
from wvq.prior.sampling import sample_tokens
from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.data import DataConfig, to_uint8
from wvq.tokenizer.data.batches import evenly_spaced
from wvq.tokenizer.distributed import on_first_process
from wvq.tokenizer.errors import check_range
from wvq.tokenizer.image_grid import save_grid
from wvq.tokenizer.precision import float64_device, to_float64
from wvq.tokenizer.storage.atomic import remove_unfinished
from wvq.tokenizer.storage.untrusted import expand_home
from wvq.tokenizer.tokens import TokenDataset

from .class_conditional import ClassConditionalPipeline
from .sharing.origin import describe_origin
from .tokenize import Tokenization, tokenize
from .training.accelerator import build_accelerator
from .training.config import TrainingConfig
from .training.loop import Loop
from .training.micro_batches import accumulation_steps
from .training.muon import build_optimizers
from .training.run import Run, finished_model
from .training.same_run import tokenizer_input
from .training.sharding import evaluated_model, whole_model


@dataclass(frozen=True, kw_only=True)
class PriorTraining(TrainingConfig):
    """A training run of stage two. The same command resumes from the run's newest checkpoint."""

    output_dir: str = "runs/prior"
    """Folder of the run."""
    tokenizer: str = "runs/tokenizer/model"
    """Folder or hub repository of the trained tokenizer."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images; they are encoded once, into tokens_dir. The evaluation split is held out."""
    tokens_dir: str = "runs/tokens"
    """Folder of the token cache."""
    model: PriorSize = field(default_factory=PriorSize)
    """Size of the prior."""
    crops: int = 0
    """Crops of each training image whose tokens are trained on beside its own; see `wvq tokenize`."""
    batch_size: int = 128
    """Images per optimizer step, over all processes and micro-batches."""
    gradient_accumulation_steps: int = 1
    """Micro-batches into which the batch of a step is cut to save memory; 0 for as few as fit into it, which is
    tried."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """Optimizer of the matrices inside the layers; embeddings, output layer and norms always have AdamW."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    table_learning_rate: float | None = None
    """Peak learning rate of the embeddings and of the output layer, whose rows AdamW moves by as much, however seldom
    their id is met; None for learning_rate, much less for large codebooks with code_geometry."""
    weight_decay: float = 0.05
    """Decoupled weight decay of the matrices."""
    final_learning_rate: float = 0.05
    """Where the cosine ends, as a share of the peak."""
    code_geometry: int = 0
    """Random Fourier features of the code vectors that the tables are trained with, such as 256; 0 for none. The prior
    that is saved is a plain one all the same."""
    sampled_ids: int = 0
    """Ids, drawn anew in each step, that the loss of a token compares its own with, such as 2048 of 16,384 codes, with
    which a step takes 0.4 times as long on a CPU; 0 for all, and all where the prior has no more. Held-out figures are
    always of all."""
    class_dropout: float = 0.1
    """Share of the training images whose class is replaced by the null class, for guidance."""
    order: Literal["raster", "random", "annealed"] = "raster"
    """Order of the tokens of an image. random: a prior that draws in any order, several tokens at once; its sequences
    are twice as long. annealed: random orders that become raster, with architecture gpt2 (RAR)."""
    annealing: tuple[float, float] = (0.5, 0.75)
    """Shares of the training between which random orders become raster, one image after another, if annealed."""
    label_smoothing: float = 0.0
    """Share of the target probability spread over all ids."""
    gradient_checkpointing: bool = False
    """Whether layers are computed again in the backward pass instead of kept: less memory, a third more time."""
    compile: bool = False
    """Whether torch.compile translates each transformer layer, which takes a minute and a C++ compiler."""
    evaluation_images: int = 0
    """Held-out images of each evaluation; 0 for all."""
    sample_every: int = 10_000
    """Steps between pictures of samples, 8 a class for up to 10 classes; 0 for none."""
    sample_guidance_scale: float = 2.0
    """Guidance scale of those samples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_home(self, "tokenizer", "tokens_dir")
        counts = "code_geometry", "sampled_ids", "crops", "evaluation_images", "sample_every"
        check_range(self, *counts, "sample_guidance_scale", least=0)
        check_range(self, "class_dropout", least=0, most=1)
        if self.table_learning_rate is not None:
            check_range(self, "table_learning_rate", least=0)
        if self.gradient_accumulation_steps < 0:
            raise InputError(
                f"gradient_accumulation_steps is {self.gradient_accumulation_steps}; it must be at least 1, or 0 to try"
            )
        object.__setattr__(self, "annealing", tuple(self.annealing))
        if not 0 <= self.annealing[0] <= self.annealing[1] <= 1:
            raise InputError(f"annealing is {self.annealing}; valid are 0 <= first <= last <= 1")
        if self.order == "annealed" and self.model.architecture != "gpt2":
            raise InputError(
                f"order is 'annealed' with model.architecture '{self.model.architecture}'; only gpt2 has learnt "
                "positions, into which those of the targets fold; valid are raster, random"
            )
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"label_smoothing is {self.label_smoothing}; it must be in [0, 1)")
        if self.label_smoothing and self.sampled_ids:
            raise InputError(
                f"label_smoothing is {self.label_smoothing} with sampled_ids {self.sampled_ids}; it spreads over all "
                "ids: one of them must be 0"
            )

    def random_share(self, step: int) -> float:
        """Share of the images of a step whose tokens are in a random order."""
        if self.order != "annealed":
            return float(self.order == "random")
        first, last = (share * self.steps for share in self.annealing)
        return float(step < last) * min(1.0, (last - step) / max(last - first, 1.0))


def train_pipeline(config: PriorTraining) -> Path:
    """Train a prior, or finish training it, and save it with its tokenizer; returns the folder of the pipeline.

    Raises:
        InputError: as `train_prior`.
    """
    model, folder = train_prior(config), Path(config.output_dir) / "pipeline"

    def write() -> None:
        remove_unfinished(folder.parent, "pipeline-*")
        if not folder.exists():
            prior, tokenizer = load_prior(model), VQTokenizer.from_pretrained(config.tokenizer)
            pipeline = ClassConditionalPipeline(tokenizer, prior, prior.config.class_names)
            pipeline.origin = describe_origin(folder.parent, config.tokenizer)
            pipeline.save_pretrained(folder)

    on_first_process(write)
    return folder


def train_prior(config: PriorTraining) -> Path:
    """Train a prior, or finish training it; returns the folder of the model.

    Raises:
        InputError: for data or a tokenizer that cannot be read, and as `train_tokenizer`.
    """
    accelerator = build_accelerator(config, may_shard=True)
    if None in (config.data.image_size, config.data.channels):
        config = replace(config, data=config.data.sized(VQTokenizer.from_pretrained(config.tokenizer).config))
    if done := finished_model(config, partial(tokenizer_input, config.tokenizer)):
        return done
    tokens = tokenize(Tokenization(config.tokenizer, config.data, config.tokens_dir, config.crops))
    train_set, evaluation_set = TokenDataset(tokens, "train"), TokenDataset(tokens, "evaluation")

    set_seed(config.seed)
    description = PriorConfig(
        **vars(config.model),
        num_codes=train_set.num_codes,
        num_tokens=train_set.num_tokens,
        num_classes=len(train_set.class_names),
        codes_per_position=train_set.codes_per_position,
        token_order="random" if config.order == "random" else "raster",
        scales=train_set.scales,
    )
    prior = build_prior(description)
    prior.config.tokenizer_fingerprint = train_set.tokenizer_fingerprint
    if train_set.token_fingerprint:
        prior.config.token_fingerprint = train_set.token_fingerprint
    prior.config.class_names = list(train_set.class_names)
    geometry = None
    if config.code_geometry:
        codebooks = VQTokenizer.from_pretrained(config.tokenizer).codebooks
        geometry = CodeGeometry(code_features(*codebooks, count=config.code_geometry, seed=config.seed), prior)
    targets = TargetPositions(prior) if config.order == "annealed" else None
    model = TokenLoss(prior, description.num_codes, config.label_smoothing, geometry, targets)
    optimizers = build_optimizers(model, config)
    run = Run(config.output_dir, config, accelerator, train_set.inputs)  # not before it is known that it can begin
    if run.finished:
        return run.folder / "model"
    if config.gradient_checkpointing:
        prior.activation_checkpointing_enable()
    if config.compile:
        for layer in transformer_layers(prior):
            layer.compile()
    if config.gradient_accumulation_steps == 0:
        found = accumulation_steps(run.folder, model, config.batch_size, description.num_tokens, accelerator)
        replace(config, gradient_accumulation_steps=found).check_processes(accelerator.num_processes)
        accelerator.gradient_accumulation_steps = found
    loop = Loop(run, "prior", model, optimizers, train_set, smaller=smaller_sizes(config))
    baselines, vocabulary, proposal = baseline_bits(train_set, evaluation_set), prior.config.vocab_size, None
    if 0 < config.sampled_ids < vocabulary:
        proposal = Proposal(code_counts(train_set), vocabulary)

    with loop:
        for batch in loop:
            codes, labels = batch["tokens"], batch["labels"]
            dropped = loop.drawn(len(labels), config.class_dropout)
            labels = torch.where(dropped, description.num_classes, labels)  # without classes 0 is the null class

            share = config.random_share(loop.step_number)
            orders = training_orders(config.seed, loop.number, len(codes), description.num_tokens, share)
            sample = proposal.draw(config.seed, loop.number, config.sampled_ids) if proposal else None

            with loop.step():
                loss = loop.model(codes, labels, orders, sample)
                loop.backward(loss)
                loop.update(*loop.optimizers, model=loop.model.parameters())

            if loop.due(config.log_every):
                loop.log("tokens", config.batch_size * description.num_tokens)
            if loop.due(config.evaluate_every):
                with evaluated_model(loop.evaluated) as evaluated:
                    held_out = validate(evaluated, evaluation_set, config, accelerator)
                bits = held_out / math.log(2)
                others = ", ".join(f"{name.split('_')[0]} {value:.3f}" for name, value in baselines.items())
                loop.log_evaluation(
                    {"loss": held_out, "bits_per_token": bits, **baselines},
                    f"held-out {bits:.3f} bits per token ({others})",
                )
            if loop.due(config.sample_every):
                # By one process, from weights of its own: with shards each token would gather the whole model anew.
                sampler = whole_model(loop.evaluated).prior
                write = partial(write_samples, sampler, description, config=config, device=accelerator.device)
                loop.draw("samples", write)
                del sampler, write  # a copy, if the prior is sharded

        with without_bars():
            return run.save_model(whole_model(loop.evaluated).prior)


def smaller_sizes(config: PriorTraining) -> str:
    """Options of a cheaper training."""
    smaller = list(SIZES)[: list(SIZES).index(config.model.size)]
    size = f"--model.size {' or '.join(smaller[:2])}, " if smaller else "--model.num-layers and --model.hidden-size, "
    return f"{size}--batch-size {max(1, config.batch_size // 2)}"


@torch.no_grad()
def validate(model: TokenLoss, dataset: TokenDataset, config: PriorTraining, accelerator: Accelerator) -> float:
    """Mean loss in nats per token over the held-out images, shared out over the processes, with their own classes.

    In raster order or, with order "random", in one for each image that is always the same.
    All processes make as many forward passes, since the model may be sharded; one without an image left counts none.
    """
    model.eval()
    at_once, wanted = 256 * accelerator.num_processes, config.evaluation_images
    images = evenly_spaced(len(dataset), wanted).tolist() if wanted else range(len(dataset))
    total = torch.zeros(2, dtype=torch.float64, device=float64_device(accelerator.device))
    for first in range(0, len(images), at_once):
        own = images[first : first + at_once][accelerator.process_index :: accelerator.num_processes]
        batch = dataset.take(torch.tensor(own or [0]))
        codes, labels = batch["tokens"].to(accelerator.device), batch["labels"].to(accelerator.device)
        orders = validation_orders(own or [0], codes.shape[1]) if config.order == "random" else None
        with accelerator.autocast():
            loss = model(codes, labels, orders)
        total += torch.stack([to_float64(loss) * len(own), total.new_tensor(len(own))])
    return float(torch.div(*accelerator.reduce(total, "sum")))


def write_samples(
    model: PreTrainedModel, description: PriorConfig, path: Path, *, config: PriorTraining, device: torch.device
) -> None:
    """Write a picture of samples, drawn on that device: a row of 8 for each of up to 10 classes, or 5 rows without."""
    prior = model.to(device)  # pyright: ignore[reportArgumentType]
    tokenizer = VQTokenizer.from_pretrained(config.tokenizer).to(device)
    classes = evenly_spaced(description.num_classes, 10)
    labels = (classes if description.num_classes else torch.zeros(5, dtype=torch.int64)).repeat_interleave(8)
    tokens = (sample_scales if description.scales else sample_tokens)(
        prior,
        class_labels=labels,
        num_tokens=description.num_tokens,
        num_codes=description.num_codes,
        guidance_scale=config.sample_guidance_scale if description.num_classes else 1.0,
        generator=torch.Generator().manual_seed(config.seed),
        codes_per_position=description.codes_per_position,
    )
    images = to_uint8(tokenizer.decode(tokenizer.from_sequence(tokens))).cpu()
    save_grid(images, path, columns=8)
