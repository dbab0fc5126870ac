"""Stage one, training: `wvq train-tokenizer`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from wvq.tokenizer import InputError, TokenizerConfig, VQTokenizer
from wvq.tokenizer.adversarial.config import DiscriminatorConfig, PerceptualConfig
from wvq.tokenizer.data import ImageDataset, load_splits, to_model, to_uint8
from wvq.tokenizer.data.batches import evenly_spaced
from wvq.tokenizer.data.dataset import report_bad_images
from wvq.tokenizer.distributed import on_every_process, sum_over_processes
from wvq.tokenizer.errors import check_range
from wvq.tokenizer.image_grid import save_grid
from wvq.tokenizer.metrics import ReconstructionQuality
from wvq.tokenizer.precision import float64_device

from .training.accelerator import build_accelerator
from .training.collapse import collapse_warning, waiting_warning
from .training.config import TrainingConfig
from .training.loop import Loop
from .training.muon import Muon
from .training.run import Run, finished_model


@dataclass(frozen=True, kw_only=True)
class ReconstructionTraining(TrainingConfig):
    """A training run of a tokenizer by the images that it reconstructs: from scratch, or of one that is trained."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """Optimizer of the kernels of encoder and decoder; with muon, which took half the steps on CIFAR-10, all else
    and the codes have AdamW."""
    learning_rate: float = 4e-4
    """Peak learning rate of encoder and decoder."""
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
    ema_decay: float = 0.0
    """Decay of the exponential moving average of the weights that is evaluated and saved; 0 for none, and for 0.999
    where there is a discriminator."""
    perceptual_weight: float = 0.0
    """Weight of the perceptual loss beside the reconstruction loss; 0 for none."""
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    """What the perceptual loss sees."""
    adversarial_weight: float = 0.0
    """Weight of what the discriminator makes of the reconstructions, after its ramp; 0 for no discriminator."""
    discriminator_start: int | None = None
    """Steps before the discriminator trains; by default half of all in `wvq train-tokenizer`, none in
    `wvq refine-tokenizer`."""
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """The discriminator, and how it trains and is used."""
    rollback_psnr: float = 1.0
    """Fall of the validation PSNR in dB, against the evaluation before the tokenizer sees the discriminator, at which
    the run goes back to where that was and halves adversarial_weight; .inf never goes back."""

    def __post_init__(self) -> None:
        if self.adversarial_weight and not self.ema_decay:
            object.__setattr__(self, "ema_decay", 0.999)
        super().__post_init__()
        weights = ("perceptual_weight", "adversarial_weight")
        check_range(self, "codebook_learning_rate", "evaluation_images", *weights, least=0)
        if not self.rollback_psnr > 0:
            raise InputError(f"rollback_psnr is {self.rollback_psnr}; it must be above 0 (.inf never goes back)")
        if self.discriminator_start is not None:
            check_range(self, "discriminator_start", least=0)
        if self.adversarial_weight and not self.turning_point < self.steps:
            raise InputError(
                f"the discriminator trains from step {self.turning_point - self.discriminator.lead} and is used from "
                f"step {self.turning_point}, but steps is {self.steps}; give more of these, an earlier "
                "discriminator_start or a smaller discriminator.lead"
            )
        if self.gradient_accumulation_steps < 1:
            raise InputError(
                f"gradient_accumulation_steps is {self.gradient_accumulation_steps}; it must be at least 1"
            )

    @property
    def turning_point(self) -> int:
        """Steps before the tokenizer sees the discriminator; 0 without one."""
        start = self.steps // 2 if self.discriminator_start is None else self.discriminator_start
        return start + self.discriminator.lead if self.adversarial_weight else 0


@dataclass(frozen=True, kw_only=True)
class TokenizerTraining(ReconstructionTraining):
    """A training run of stage one. The same command resumes from the run's newest checkpoint."""

    output_dir: str = "runs/tokenizer"
    """Folder of the run."""
    model: TokenizerConfig = field(default_factory=TokenizerConfig)
    """The tokenizer; its image_size and channels are those of the data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "data", self.data.sized(self.model))
        if (self.model.image_size, self.model.channels) != (self.data.image_size, self.data.channels):
            raise InputError(
                f"model is for {' x '.join(map(str, self.model.image_shape))} images, data has "
                f"{' x '.join(map(str, self.data.shape))}; they must be the same"
            )


def train_tokenizer(config: TokenizerTraining) -> Path:
    """Train a tokenizer, or finish training it; returns the folder to give to `VQTokenizer.from_pretrained`.

    Raises:
        InputError: for data that cannot be read, a folder with a run of another configuration or in use; if every
            checkpoint is damaged, the memory does not suffice, or too many steps in a row are skipped. For other losses
            than the error of the pixels, which `train_stage_one` has.
    """
    if config.perceptual_weight or config.adversarial_weight:
        raise InputError(
            f"perceptual_weight is {config.perceptual_weight} and adversarial_weight {config.adversarial_weight}; "
            "this loop knows neither, wvq.pipelines.adversarial.command.train_stage_one does"
        )
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
    optimizers, smaller = build_tokenizer_optimizers(model, config, config.optimizer), smaller_sizes(config.model)
    loop = Loop(run, "tokenizer", model, optimizers, train_set, config.data.num_workers, smaller)
    parameters = clipped(loop.optimizers)
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
                loop.update(*loop.optimizers, **parameters)

            if loop.due(config.log_every):
                loop.log("images", config.batch_size)
            if loop.due(config.evaluate_every):
                evaluate(loop, loop.evaluated, evaluation_set, config)

        return run.save_model(loop.evaluated)


def smaller_sizes(model: TokenizerConfig) -> str:
    """Options of a cheaper tokenizer: the work grows with the square of its width and of the side of its features."""
    options = [f"--model.base-channels {model.base_channels // 2}"] if model.base_channels > 16 else []
    if all(side % 2 == 0 for side in model.grid_shape):
        options.append(f"--model.patch-size {2 * model.patch_size}")
    return f"{' or '.join(options)} (a quarter of the work each)" if options else ""


def build_tokenizer_optimizers(
    model: nn.Module, config: Any, kind: str = "adamw", fused: bool = True
) -> list[torch.optim.Optimizer]:
    """AdamW with two groups of parameters, the network's, with the convolutions between scales, and the codes'; without
    those that are frozen. With "muon", Muon (arXiv 2502.16982) for the network's matrices and kernels.

    Muon's update is scaled to the root mean square of AdamW's, so that both share one learning rate.

    Args:
        fused: whether AdamW is one kernel, which a GPU needs to skip a step without the host; on a CPU it takes an
            eighth of the time.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    in_codebook = {name: name.startswith("quantizer.") and ".phis." not in name for name in trained}
    codebook = [p for name, p in trained.items() if in_codebook[name]]
    network = [p for name, p in trained.items() if not in_codebook[name]]
    matrices = [p for p in network if p.ndim >= 2] if kind == "muon" else []
    inside = {id(p) for p in matrices}
    rate, decay = config.learning_rate, config.weight_decay
    groups = [
        {"params": [p for p in network if id(p) not in inside], "peak": rate, "weight_decay": decay},
        {"params": codebook, "peak": config.codebook_learning_rate, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=fused)
    if not matrices:
        return [adamw]
    muon = Muon([{"params": matrices, "peak": rate}], lr=rate, weight_decay=decay)
    return [adamw, muon]


def clipped(optimizers: Sequence[Any]) -> dict[str, list[nn.Parameter]]:
    """The parameters of these optimizers whose gradients are clipped together, by the names of the groups."""
    adamw, *muon = optimizers
    network, codebook = (group["params"] for group in adamw.param_groups)
    matrices = [p for optimizer in muon for group in optimizer.param_groups for p in group["params"]]
    return {"network": network + matrices, "codebook": codebook}


def evaluate(loop: Loop, model: VQTokenizer, dataset: ImageDataset, config: Any) -> dict[str, float]:
    """Log how well a step's model reconstructs the evaluation images, draw some; returns the scores by their names."""
    scores, code_usage = validate(model, dataset, config, loop.accelerator)
    loop.log_evaluation(
        scores,
        f"PSNR {scores['psnr']:.2f} dB, SSIM {scores['ssim']:.3f}, "
        f"utilization {scores['utilization']:.3f}, perplexity {scores['perplexity']:.0f}",
        code_usage,
    )
    loop.draw("reconstructions", partial(write_reconstructions, model, dataset))
    if loop.accelerator.is_main_process:
        count = min(config.evaluation_images or len(dataset), len(dataset))
        collapse = collapse_warning(loop.run.metrics(), model.config, count)
        if warning := waiting_warning(model, loop.step_number) or collapse:
            loop.say(warning, warning=True)
    return scores


@torch.no_grad()
def validate(
    model: VQTokenizer, dataset: ImageDataset, config: Any, accelerator: Accelerator
) -> tuple[dict[str, float], Tensor]:
    """`ReconstructionQuality` of the evaluation images, which are shared out over the processes; uses of each code."""
    model.eval()
    quality = ReconstructionQuality(model.config.num_codes, model.config.codebook_dim, model.config.scales)
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
                model.quantizer.unquantized(output.features),
                model.to_sequence(output.quantizer.indices),
                model.quantizer.lookup(output.quantizer.indices),
            )

    on_every_process(count)
    usage = sum_over_processes(quality.histogram)
    return quality.compute(), usage.view(-1, model.config.num_codes).sum(dim=0)


@torch.no_grad()
def write_reconstructions(model: VQTokenizer, dataset: ImageDataset, path: Path, count: int = 32) -> None:
    """Write a picture of evaluation images from all over the set, each row of originals above its reconstructions."""
    originals = dataset.take(evenly_spaced(len(dataset), count))["images"]
    reconstructions = to_uint8(model.eval().decode(model.encode(to_model(originals.to(model.device))))).cpu()
    rows = [part for pair in zip(originals.split(16), reconstructions.split(16), strict=True) for part in pair]
    save_grid(torch.cat(rows), path, columns=min(16, len(originals)))
