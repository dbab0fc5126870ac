"""Stage one, training: `wvq train-tokenizer`."""

import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from wvq.tokenizer.data.batches import ShuffledBatches, training_loader, uniform_draws
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import ImageDataset, load_splits, report_bad_images
from wvq.tokenizer.data.decoding import to_model, to_uint8
from wvq.tokenizer.errors import InputError
from wvq.tokenizer.image_grid import save_grid
from wvq.tokenizer.metrics import ReconstructionQuality
from wvq.tokenizer.model import TokenizerConfig, VQTokenizer

from .training.accelerator import build_accelerator
from .training.collapse import collapse_warning
from .training.memory import memory_advice
from .training.run import Run
from .training.schedule import check_processes, check_schedule, learning_rate_share, set_learning_rates
from .training.state import TrainingState
from .training.step_record import StepRecord
from .training.stopping import stop_request


@dataclass(frozen=True)
class TokenizerTraining:
    """A training run of stage one. The same command goes on from the run's newest checkpoint."""

    output_dir: str = "runs/tokenizer"
    """Folder of the run."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images."""
    model: TokenizerConfig = field(default_factory=TokenizerConfig)
    """The tokenizer; its image_size and channels are those of the data."""
    steps: int = 100_000
    """Optimizer steps."""
    batch_size: int = 64
    """Images per optimizer step, over all processes and accumulated batches."""
    gradient_accumulation_steps: int = 1
    """Parts into which the batch is cut to save memory."""
    learning_rate: float = 4e-4
    """Peak learning rate of encoder and decoder (AdamW)."""
    codebook_learning_rate: float = 0.02
    """Peak learning rate of the quantizer's parameters (AdamW, no decay); 0.02 is the paper's."""
    weight_decay: float = 1e-4
    """Decoupled weight decay of encoder and decoder."""
    warmup_steps: int = 200
    """Steps in which both learning rates rise linearly from 0; a cosine follows."""
    final_learning_rate: float = 0.1
    """Where the cosine ends, as a share of the peak."""
    max_grad_norm: float = 1.0
    """Gradients of the network and of the quantizer are each clipped to this norm."""
    reconstruction_loss: Literal["l2", "l1"] = "l2"
    """Mean squared or mean absolute error of the images on the [-1, 1] scale."""
    ema_decay: float = 0.0
    """Decay of the exponential moving average of the weights that is evaluated and saved; 0 for none."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Precision of encoder and decoder; the quantizer always computes in float32."""
    log_every: int = 50
    """Steps between lines of training metrics."""
    evaluate_every: int = 2_000
    """Steps between evaluations, which also write a picture of reconstructions."""
    evaluation_images: int = 0
    """Images of the evaluation split that are used while training; 0 for all."""
    checkpoint_every: int = 2_000
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints kept."""
    max_skipped_steps: int = 10
    """Steps in a row that may be skipped since a loss or gradient is not finite; then the run stops."""
    log_with: tuple[str, ...] = ()
    """Accelerate trackers, such as tensorboard or wandb."""
    seed: int = 0
    """Of weights, order of images and flips."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "log_with", tuple(self.log_with))
        if (self.model.image_size, self.model.channels) != (self.data.image_size, self.data.channels):
            raise InputError(
                f"model is for {self.model.channels} x {self.model.image_size} x {self.model.image_size} images, data "
                f"has {self.data.channels} x {self.data.image_size} x {self.data.image_size}; they must be the same"
            )
        often = ("log_every", "evaluate_every", "checkpoint_every", "keep_checkpoints", "max_skipped_steps")
        check_schedule(self, "gradient_accumulation_steps", *often)
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay is {self.ema_decay}; it must be in [0, 1)")


def train_tokenizer(config: TokenizerTraining) -> Path:
    """Train a tokenizer, or finish training it; returns the folder to give to `VQTokenizer.from_pretrained`.

    Raises:
        InputError: for data that cannot be read, a folder with a run of another configuration or in use; if every
            checkpoint is damaged, the memory does not suffice, or too many steps in a row are skipped.
    """
    # The world: processes, precision, the run's folder, the images.
    accelerator = build_accelerator(config)
    check_processes(config, accelerator)
    train_set, evaluation_set = load_splits(config.data)
    run = Run(config.output_dir, config, accelerator)
    report_bad_images(run.folder, train_set, evaluation_set, accelerator.is_main_process)
    if run.finished:
        return run.folder / "model"
    if config.log_with:
        accelerator.init_trackers("tokenizer")

    # The model, its optimizer, its average.
    set_seed(config.seed)
    model = VQTokenizer(config.model)
    model.quantizer.accumulation_steps = config.gradient_accumulation_steps
    model, optimizer = accelerator.prepare(model, build_optimizer(model, config))
    network, codebook = (group["params"] for group in optimizer.param_groups)
    average = None
    if config.ema_decay:
        average = AveragedModel(accelerator.unwrap_model(model), multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    evaluated = average.module if average else accelerator.unwrap_model(model)
    assert isinstance(evaluated, VQTokenizer)

    # Where to begin.
    record = StepRecord(accelerator, model, config.max_skipped_steps)
    state = TrainingState(accelerator, model, [optimizer], record, average)
    step = run.resume(state)
    parts = config.gradient_accumulation_steps
    batches = ShuffledBatches(
        train_set.shard_sizes, config.batch_size // parts, step * parts, config.steps * parts, config.seed
    )
    loader = accelerator.prepare(training_loader(train_set, batches, config.data.num_workers))
    progress = tqdm(
        total=config.steps, initial=step, desc=run.folder.name, unit="step", disable=not accelerator.is_main_process
    )
    started = time.perf_counter() - max((row.get("seconds", 0.0) for row in run.metrics()), default=0.0)
    clock, clocked = time.perf_counter(), step

    model.train()
    with run, progress, stop_request(accelerator) as stop, memory_advice(config, accelerator):
        for number, batch in enumerate(loader, start=step * parts):
            images = to_model(batch["images"].to(accelerator.device))
            if config.data.horizontal_flip:
                flipped = uniform_draws(config.seed, number, len(images)).to(accelerator.device) < 0.5
                images = torch.where(flipped[:, None, None, None], images.flip(-1), images)

            # One optimizer step, when all parts of the batch have been seen.
            with accelerator.accumulate(model), record.guard(step + 1, number):
                set_learning_rates(optimizer, learning_rate_share(step, config))
                output = model(images)
                distance = F.mse_loss if config.reconstruction_loss == "l2" else F.l1_loss
                reconstruction_loss = distance(output.reconstructions.float(), images)
                loss = reconstruction_loss + output.quantizer.loss
                accelerator.backward(loss)
                record.add({"loss": loss, "reconstruction_loss": reconstruction_loss} | output.quantizer.terms)
                if accelerator.sync_gradients:
                    network_norm = accelerator.clip_grad_norm_(network, config.max_grad_norm)
                    codebook_norm = accelerator.clip_grad_norm_(codebook, config.max_grad_norm)
                    record.check(network=network_norm, codebook=codebook_norm)
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
                speed = (step - clocked) * config.batch_size / (now - clock)
                rate = config.learning_rate * learning_rate_share(step - 1, config)
                timing = {"images_per_second": speed, "seconds": now - started}
                run.log(step, "train", {**means, "learning_rate": rate, **timing})
                progress.set_postfix(loss=f"{means.get('loss', math.nan):.4f}", images_s=f"{speed:.0f}")
                clock, clocked = now, step
            if step % config.evaluate_every == 0 or step == config.steps:
                scores = validate(evaluated, evaluation_set, config, accelerator)
                run.log(step, "evaluation", scores)
                if accelerator.is_main_process:
                    write_reconstructions(evaluated, evaluation_set, run.folder / "images" / f"step-{step:08d}.png")
                    progress.write(
                        f"step {step}: PSNR {scores['psnr']:.2f} dB, SSIM {scores['ssim']:.3f}, "
                        f"utilization {scores['utilization']:.3f}, perplexity {scores['perplexity']:.0f}"
                    )
                    count = config.evaluation_images or len(evaluation_set)
                    if warning := collapse_warning(run.metrics(), config.model, count):
                        progress.write(warning, file=sys.stderr)
                model.train()
                clock, clocked = time.perf_counter(), step
            stopping = stop.asked()
            if step % config.checkpoint_every == 0 or step == config.steps or stopping:
                run.save_checkpoint(step, state)
            if stopping:
                stop.leave(step)

        return run.save_model(evaluated)


def build_optimizer(model: VQTokenizer, config: TokenizerTraining) -> torch.optim.AdamW:
    """AdamW with two groups of parameters, the network's and the quantizer's."""
    codebook = list(model.quantizer.parameters())
    network = [p for name, p in model.named_parameters() if not name.startswith("quantizer.")]
    groups = [
        {"params": network, "peak": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": codebook, "peak": config.codebook_learning_rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95))


@torch.no_grad()
def validate(
    model: VQTokenizer, dataset: ImageDataset, config: TokenizerTraining, accelerator: Accelerator
) -> dict[str, float]:
    """`ReconstructionQuality` of the evaluation images, which are shared out over the processes."""
    model.eval()
    quality = ReconstructionQuality(config.model.codebook_size, config.model.codebook_dim).to(accelerator.device)
    count = min(config.evaluation_images or len(dataset), len(dataset))
    chosen = torch.linspace(0, len(dataset) - 1, count).long()[accelerator.process_index :: accelerator.num_processes]
    for indices in chosen.split(256):
        originals = dataset.__getitems__(indices.tolist())["images"].to(accelerator.device)
        with accelerator.autocast():
            output = model(to_model(originals))
        quality.update(
            originals,
            to_uint8(output.reconstructions.float()),
            output.features,
            output.quantizer.indices,
            model.quantizer.codebook,
        )
    return quality.compute()


@torch.no_grad()
def write_reconstructions(model: VQTokenizer, dataset: ImageDataset, path: Path, count: int = 32) -> None:
    """Write a picture of evaluation images from all over the set, each row of originals above its reconstructions."""
    indices = torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).long()
    originals = dataset.__getitems__(indices.tolist())["images"]
    device = model.quantizer.codebook.device
    reconstructions = to_uint8(model.eval().decode(model.encode(to_model(originals.to(device))))).cpu()
    rows = [part for pair in zip(originals.split(16), reconstructions.split(16), strict=True) for part in pair]
    save_grid(torch.cat(rows), path, columns=min(16, len(originals)))
