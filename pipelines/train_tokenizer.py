"""Stage one, training: `wvq train-tokenizer`."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor

from wvq.tokenizer import InputError, TokenizerConfig, VQTokenizer
from wvq.tokenizer.data import ImageDataset, load_splits, to_model, to_uint8
from wvq.tokenizer.data.batches import evenly_spaced
from wvq.tokenizer.data.dataset import report_bad_images
from wvq.tokenizer.distributed import on_every_process, sum_over_processes
from wvq.tokenizer.errors import check_range
from wvq.tokenizer.image_grid import save_grid
from wvq.tokenizer.metrics import ReconstructionQuality
from wvq.tokenizer.precision import float64_device

from .training.accelerator import build_accelerator
from .training.collapse import collapse_warning
from .training.config import TrainingConfig
from .training.loop import Loop
from .training.run import Run, finished_model


@dataclass(frozen=True, kw_only=True)
class TokenizerTraining(TrainingConfig):
    """A training run of stage one. The same command resumes from the run's newest checkpoint."""

    output_dir: str = "runs/tokenizer"
    """Folder of the run."""
    model: TokenizerConfig = field(default_factory=TokenizerConfig)
    """The tokenizer; its image_size and channels are those of the data."""
    learning_rate: float = 4e-4
    """Peak learning rate of encoder and decoder (AdamW)."""
    codebook_learning_rate: float = 0.02
    """Peak learning rate of the quantizer's parameters (AdamW, no decay); 0.02 is the paper's."""
    weight_decay: float = 1e-4
    """Decoupled weight decay of encoder and decoder."""
    max_grad_norm: float = 1.0
    """Gradients of the network and of the quantizer are each clipped to this norm."""
    reconstruction_loss: Literal["l2", "l1"] = "l2"
    """Mean squared or mean absolute error of the images on the [-1, 1] scale."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Precision of encoder and decoder; the quantizer always computes in float32."""
    evaluate_every: int = 2_000
    """Steps between evaluations, which also write a picture of reconstructions."""
    evaluation_images: int = 0
    """Images of the evaluation split that are used while training; 0 for all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "data", self.data.sized(self.model))
        check_range(self, "codebook_learning_rate", "evaluation_images", least=0)
        if (self.model.image_size, self.model.channels) != (self.data.image_size, self.data.channels):
            raise InputError(
                f"model is for {self.model.channels} x {self.model.image_size} x {self.model.image_size} images, data "
                f"has {self.data.channels} x {self.data.image_size} x {self.data.image_size}; they must be the same"
            )
        if self.gradient_accumulation_steps < 1:
            raise InputError(
                f"gradient_accumulation_steps is {self.gradient_accumulation_steps}; it must be at least 1"
            )


def train_tokenizer(config: TokenizerTraining) -> Path:
    """Train a tokenizer, or finish training it; returns the folder to give to `VQTokenizer.from_pretrained`.

    Raises:
        InputError: for data that cannot be read, a folder with a run of another configuration or in use; if every
            checkpoint is damaged, the memory does not suffice, or too many steps in a row are skipped.
    """
    accelerator = build_accelerator(config)
    if model := finished_model(config):
        return model
    train_set, evaluation_set = load_splits(config.data)
    inputs = {"train images": train_set.fingerprint, "evaluation images": evaluation_set.fingerprint}
    run = Run(config.output_dir, config, accelerator, inputs)
    report_bad_images(run.folder, train_set, evaluation_set, accelerator.is_main_process)
    if run.finished:
        return run.folder / "model"

    set_seed(config.seed)
    model = VQTokenizer(config.model)
    model.quantizer.accumulation_steps = config.gradient_accumulation_steps
    optimizer = build_optimizer(model, config, fused=accelerator.device.type != "cpu")
    loop = Loop(run, "tokenizer", model, [optimizer], train_set, config.data.num_workers, smaller_sizes(config.model))
    (optimizer,) = loop.optimizers
    network, codebook = (group["params"] for group in optimizer.param_groups)
    distance = F.mse_loss if config.reconstruction_loss == "l2" else F.l1_loss

    with loop:
        for batch in loop:
            images = to_model(batch["images"])
            if config.data.horizontal_flip:
                flipped = loop.drawn(len(images), 0.5)
                images = torch.where(flipped[:, None, None, None], images.flip(-1), images)

            with loop.step():
                output = loop.model(images)
                reconstruction_loss = distance(output.reconstructions.float(), images)
                loss = reconstruction_loss + output.quantizer.loss
                terms = {"loss": loss, "reconstruction_loss": reconstruction_loss}
                loop.backward(loss, terms | output.quantizer.terms)
                loop.update(optimizer, network=network, codebook=codebook)

            if loop.due(config.log_every):
                loop.log("images", config.batch_size)
            if loop.due(config.evaluate_every):
                scores, code_usage = validate(loop.evaluated, evaluation_set, config, accelerator)
                loop.log_evaluation(
                    scores,
                    f"PSNR {scores['psnr']:.2f} dB, SSIM {scores['ssim']:.3f}, "
                    f"utilization {scores['utilization']:.3f}, perplexity {scores['perplexity']:.0f}",
                    code_usage,
                )
                loop.draw("reconstructions", partial(write_reconstructions, loop.evaluated, evaluation_set))
                if accelerator.is_main_process:
                    count = config.evaluation_images or len(evaluation_set)
                    if warning := collapse_warning(run.metrics(), config.model, count):
                        loop.say(warning, warning=True)

        return run.save_model(loop.evaluated)


def smaller_sizes(model: TokenizerConfig) -> str:
    """Options of a cheaper tokenizer: the work grows with the square of its width and of the side of its features."""
    options = [f"--model.base-channels {model.base_channels // 2}"] if model.base_channels > 16 else []
    if model.image_size % (2 * model.downsampling) == 0:
        options.append(f"--model.patch-size {2 * model.patch_size}")
    return f"{' or '.join(options)} (a quarter of the work each)" if options else ""


def build_optimizer(model: VQTokenizer, config: TokenizerTraining, fused: bool = False) -> torch.optim.AdamW:
    """AdamW with two groups of parameters, the network's, with the convolutions between scales, and the codes'.

    Args:
        fused: whether it is one kernel, which a GPU needs to skip a step without the host.
    """
    in_codebook = {n: n.startswith("quantizer.") and ".phis." not in n for n, _ in model.named_parameters()}
    codebook = [p for name, p in model.named_parameters() if in_codebook[name]]
    network = [p for name, p in model.named_parameters() if not in_codebook[name]]
    groups = [
        {"params": network, "peak": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": codebook, "peak": config.codebook_learning_rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=fused)


@torch.no_grad()
def validate(
    model: VQTokenizer, dataset: ImageDataset, config: TokenizerTraining, accelerator: Accelerator
) -> tuple[dict[str, float], Tensor]:
    """`ReconstructionQuality` of the evaluation images, which are shared out over the processes; uses of each code."""
    model.eval()
    quality = ReconstructionQuality(config.model.num_codes, config.model.codebook_dim, config.model.scales)
    quality = quality.to(float64_device(accelerator.device))
    chosen = evenly_spaced(len(dataset), config.evaluation_images or len(dataset))
    chosen = chosen[accelerator.process_index :: accelerator.num_processes]

    def count() -> None:
        for batch in dataset.batches(256, chosen.tolist()):  # none, with fewer images than processes
            originals = batch["images"].to(accelerator.device, non_blocking=True)
            with accelerator.autocast():
                output = model(to_model(originals))
            quality.update(
                originals,
                to_uint8(output.reconstructions.float()),
                output.features,
                model.to_sequence(output.quantizer.indices),
                model.quantizer.lookup(output.quantizer.indices),
            )

    on_every_process(count)
    usage = sum_over_processes(quality.histogram)
    return quality.compute(), usage.view(-1, config.model.num_codes).sum(dim=0)


@torch.no_grad()
def write_reconstructions(model: VQTokenizer, dataset: ImageDataset, path: Path, count: int = 32) -> None:
    """Write a picture of evaluation images from all over the set, each row of originals above its reconstructions."""
    originals = dataset.take(evenly_spaced(len(dataset), count))["images"]
    reconstructions = to_uint8(model.eval().decode(model.encode(to_model(originals.to(model.device))))).cpu()
    rows = [part for pair in zip(originals.split(16), reconstructions.split(16), strict=True) for part in pair]
    save_grid(torch.cat(rows), path, columns=min(16, len(originals)))
