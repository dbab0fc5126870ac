"""`wvq train-prior`: stage two, and both stages together as a pipeline."""

import math
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from einops import rearrange
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from wvq.prior.loss import TokenLoss
from wvq.prior.model import PriorConfig, PriorSize, build_prior, transformer_layers
from wvq.prior.muon import Muon
from wvq.prior.ngram_baselines import baseline_bits
from wvq.prior.sampling import sample_tokens
from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.data.batches import ShuffledBatches, training_loader, uniform_draws
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.decoding import to_uint8
from wvq.tokenizer.distributed import on_first_process
from wvq.tokenizer.image_grid import save_grid
from wvq.tokenizer.storage.atomic import remove_unfinished
from wvq.tokenizer.tokens import TokenDataset

from .class_conditional import ClassConditionalPipeline, load_prior
from .tokenize import Tokenization, tokenize
from .training.accelerator import build_accelerator
from .training.memory import memory_advice
from .training.micro_batches import accumulation_steps
from .training.run import Run
from .training.schedule import check_processes, check_schedule, learning_rate_share, set_learning_rates
from .training.sharding import weight_average, whole_model
from .training.state import TrainingState
from .training.step_record import StepRecord
from .training.stopping import stop_request


@dataclass(frozen=True)
class PriorTraining:
    """A training run of stage two. The same command goes on from the run's newest checkpoint."""

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
    steps: int = 100_000
    """Optimizer steps."""
    batch_size: int = 128
    """Images per optimizer step, over all processes and accumulated batches."""
    gradient_accumulation_steps: int = 1
    """Parts into which the batch is cut to save memory; 0 for as few as fit into it, which is tried."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """Optimizer of the matrices inside the layers; embeddings, output layer and norms always have AdamW."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 0.05
    """Decoupled weight decay of the matrices."""
    warmup_steps: int = 200
    """Steps in which the learning rate rises linearly from 0; a cosine follows."""
    final_learning_rate: float = 0.05
    """Where the cosine ends, as a share of the peak."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    class_dropout: float = 0.1
    """Share of the training images whose class is replaced by the null class, for guidance."""
    label_smoothing: float = 0.0
    """Share of the target probability spread over all ids."""
    ema_decay: float = 0.0
    """Decay of the exponential moving average of the weights that is evaluated and saved; 0 for none."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Precision of the forward and backward pass."""
    gradient_checkpointing: bool = False
    """Whether layers are computed again in the backward pass instead of kept: less memory, a third more time."""
    compile: bool = False
    """Whether torch.compile translates each transformer layer, which takes a minute and a C++ compiler."""
    log_every: int = 50
    """Steps between lines of training metrics."""
    evaluate_every: int = 2_000
    """Steps between evaluations on held-out tokens."""
    sample_every: int = 10_000
    """Steps between pictures of samples, 8 a class for up to 10 classes; 0 for none."""
    sample_guidance_scale: float = 2.0
    """Guidance scale of those samples."""
    checkpoint_every: int = 2_000
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints kept."""
    max_skipped_steps: int = 10
    """Steps in a row that may be skipped since a loss or gradient is not finite; then the run stops."""
    log_with: tuple[str, ...] = ()
    """Accelerate trackers, such as tensorboard or wandb."""
    seed: int = 0
    """Of weights, order of images and class drop-out."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "log_with", tuple(self.log_with))
        check_schedule(self, "log_every", "evaluate_every", "checkpoint_every", "keep_checkpoints", "max_skipped_steps")
        if self.gradient_accumulation_steps < 0:
            raise InputError(
                f"gradient_accumulation_steps is {self.gradient_accumulation_steps}; it must be at least 1, or 0 to try"
            )
        if not 0 <= self.class_dropout <= 1:
            raise InputError(f"class_dropout is {self.class_dropout}; it must be in [0, 1]")
        for name in ("label_smoothing", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be in [0, 1)")


def train_prior(config: PriorTraining) -> Path:
    """Train a prior, or finish training it; returns the folder of the model.

    Raises:
        InputError: for data or a tokenizer that cannot be read, and as `wvq.pipelines.train_tokenizer.train_tokenizer`.
    """
    # The world: processes, precision, tokens, the run's folder.
    accelerator = build_accelerator(config, may_shard=True)
    check_processes(config, accelerator)
    run = Run(config.output_dir, config, accelerator)
    if run.finished:
        return run.folder / "model"
    tokens = tokenize(Tokenization(config.tokenizer, config.data, config.tokens_dir, config.crops))
    train_set, evaluation_set = TokenDataset(tokens, "train"), TokenDataset(tokens, "evaluation")
    if config.log_with:
        accelerator.init_trackers("prior")

    # The model, its optimizers, its average.
    set_seed(config.seed)
    description = PriorConfig(
        **vars(config.model),
        num_codes=train_set.num_codes,
        num_tokens=train_set.num_tokens,
        num_classes=len(train_set.class_names),
    )
    prior = build_prior(description)
    prior.config.tokenizer_fingerprint = train_set.tokenizer_fingerprint
    prior.config.class_names = list(train_set.class_names)
    if config.gradient_checkpointing:
        prior.activation_checkpointing_enable()
    if config.compile:
        for layer in transformer_layers(prior):
            layer.compile()
    optimizers = build_optimizers(prior, config)
    token_loss = TokenLoss(prior, description.num_codes, config.label_smoothing)
    average = weight_average(token_loss, config.ema_decay, accelerator) if config.ema_decay else None
    if config.gradient_accumulation_steps == 0:
        parts = accumulation_steps(run.folder, token_loss, config.batch_size, description.num_tokens, accelerator)
        config = replace(config, gradient_accumulation_steps=parts)
        accelerator.gradient_accumulation_steps = parts
        check_processes(config, accelerator)
    model, *optimizers = accelerator.prepare(token_loss, *optimizers)
    evaluated = average.module if average else accelerator.unwrap_model(model)
    assert isinstance(evaluated, TokenLoss)

    # Where to begin.
    record = StepRecord(accelerator, model, config.max_skipped_steps)
    state = TrainingState(accelerator, model, optimizers, record, average)
    step = run.resume(state)
    parts = config.gradient_accumulation_steps
    batches = ShuffledBatches(
        train_set.shard_sizes, config.batch_size // parts, step * parts, config.steps * parts, config.seed
    )
    loader = accelerator.prepare(training_loader(train_set, batches))
    progress = tqdm(
        total=config.steps, initial=step, desc=run.folder.name, unit="step", disable=not accelerator.is_main_process
    )
    baselines = baseline_bits(train_set, evaluation_set)
    started = time.perf_counter() - max((row.get("seconds", 0.0) for row in run.metrics()), default=0.0)
    clock, clocked = time.perf_counter(), step

    model.train()
    with run, progress, stop_request(accelerator) as stop, memory_advice(config, accelerator):
        for number, batch in enumerate(loader, start=step * parts):
            codes, labels = batch["tokens"].to(accelerator.device), batch["labels"].to(accelerator.device)
            dropped = uniform_draws(config.seed, number, len(labels)).to(accelerator.device) < config.class_dropout
            labels = torch.where(dropped, description.num_classes, labels)  # without classes 0 is the null class

            # One optimizer step, when all parts of the batch have been seen.
            with accelerator.accumulate(model), record.guard(step + 1, number):
                for optimizer in optimizers:
                    set_learning_rates(optimizer, learning_rate_share(step, config))
                loss = model(codes, labels)
                accelerator.backward(loss)
                record.add({"loss": loss})
                if accelerator.sync_gradients:
                    record.check(model=accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm))
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
            if not accelerator.sync_gradients:
                continue
            step += 1
            progress.update()
            if average:
                average.update_parameters(accelerator.unwrap_model(model))

            # What is written down now and then.
            if step % config.log_every == 0 or step == config.steps:
                means, now = record.means(), time.perf_counter()
                speed = (step - clocked) * config.batch_size * description.num_tokens / (now - clock)
                rate = config.learning_rate * learning_rate_share(step - 1, config)
                timing = {"tokens_per_second": speed, "seconds": now - started}
                run.log(step, "train", {**means, "learning_rate": rate, **timing})
                progress.set_postfix(loss=f"{means.get('loss', math.nan):.3f}", tokens_s=f"{speed:.0f}")
                clock, clocked = now, step
            if step % config.evaluate_every == 0 or step == config.steps:
                held_out = validate(whole_model(evaluated), evaluation_set, accelerator)
                bits = held_out / math.log(2)
                run.log(step, "evaluation", {"loss": held_out, "bits_per_token": bits, **baselines})
                if accelerator.is_main_process:
                    others = ", ".join(f"{name.split('_')[0]} {value:.3f}" for name, value in baselines.items())
                    progress.write(f"step {step}: held-out {bits:.3f} bits per token ({others})")
                model.train()
                clock, clocked = time.perf_counter(), step
            if config.sample_every and (step % config.sample_every == 0 or step == config.steps):
                path = run.folder / "images" / f"step-{step:08d}.png"
                on_first_process(partial(write_samples, whole_model(evaluated).prior, description, path, config))
                clock, clocked = time.perf_counter(), step
            stopping = stop.asked()
            if step % config.checkpoint_every == 0 or step == config.steps or stopping:
                run.save_checkpoint(step, state)
            if stopping:
                stop.leave(step)

        return run.save_model(whole_model(evaluated).prior)


def build_optimizers(model: nn.Module, config: PriorTraining) -> list[torch.optim.Optimizer]:
    """AdamW with decay on matrices only; with "muon", Muon (arXiv 2502.16982) for the matrices inside the layers.

    Muon's update is scaled to the root mean square of AdamW's, so that both share one learning rate.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and (".layers." in name or ".h." in name)]
    inside = {id(p) for p in matrices}
    tables = [p for p in model.parameters() if p.ndim == 2 and id(p) not in inside]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    rate, decay = config.learning_rate, config.weight_decay
    groups = [
        {"params": tables, "peak": rate, "weight_decay": decay},
        {"params": vectors, "peak": rate, "weight_decay": 0.0},
    ]
    if config.optimizer == "adamw":
        groups.append({"params": matrices, "peak": rate, "weight_decay": decay})
        return [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95))]
    muon = Muon([{"params": matrices, "peak": rate}], lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    return [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95)), muon]


@torch.no_grad()
def validate(model: TokenLoss, dataset: TokenDataset, accelerator: Accelerator) -> float:
    """Mean loss in nats per token over the held-out images, shared out over the processes, with their own classes."""
    model.eval()
    total = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    own = torch.arange(accelerator.process_index, len(dataset), accelerator.num_processes)
    for indices in own.split(256):
        batch = dataset.__getitems__(indices.tolist())
        codes, labels = batch["tokens"].to(accelerator.device), batch["labels"].to(accelerator.device)
        with accelerator.autocast():
            loss = model(codes, labels)
        total += torch.stack([loss.double() * len(indices), total.new_tensor(len(indices))])
    total = accelerator.reduce(total, "sum")
    assert isinstance(total, Tensor)
    return float(total[0] / total[1])


def write_samples(model: PreTrainedModel, description: PriorConfig, path: Path, config: PriorTraining) -> None:
    """Write a picture of samples: a row of 8 for each of up to 10 classes, or 5 rows without classes."""
    tokenizer = VQTokenizer.from_pretrained(config.tokenizer).to(model.device)
    classes = torch.linspace(0, description.num_classes - 1, min(description.num_classes, 10)).long()
    labels = (classes if description.num_classes else torch.zeros(5, dtype=torch.int64)).repeat_interleave(8)
    indices = sample_tokens(
        model,
        class_labels=labels,
        num_tokens=description.num_tokens,
        num_codes=description.num_codes,
        guidance_scale=config.sample_guidance_scale if description.num_classes else 1.0,
        generator=torch.Generator().manual_seed(config.seed),
    )
    images = to_uint8(tokenizer.decode(rearrange(indices, "b (h w) -> b h w", h=tokenizer.config.grid_size))).cpu()
    save_grid(images, path, columns=8)


def train_pipeline(config: PriorTraining) -> Path:
    """Train a prior, or finish training it, and save it with its tokenizer; returns the folder of the pipeline.

    Raises:
        InputError: as `wvq.pipelines.train_prior.train_prior`.
    """
    model, folder = train_prior(config), Path(config.output_dir) / "pipeline"

    def write() -> None:
        remove_unfinished(folder.parent, "pipeline-*")
        if not folder.exists():
            prior, tokenizer = load_prior(model), VQTokenizer.from_pretrained(config.tokenizer)
            ClassConditionalPipeline(tokenizer, prior, prior.config.class_names).save_pretrained(folder)

    on_first_process(write)
    return folder
