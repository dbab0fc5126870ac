"""Stage one with perceptual and adversarial losses: from scratch with a late start, or refining a trained tokenizer."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate.utils import set_seed

from wvq.tokenizer import VQTokenizer
from wvq.tokenizer.adversarial.augmentation import augmentation_draws
from wvq.tokenizer.adversarial.losses import adaptive_weight, ramp
from wvq.tokenizer.adversarial.perceptual import PerceptualLoss
from wvq.tokenizer.data import load_splits, to_model
from wvq.tokenizer.data.dataset import report_bad_images

from ..train_tokenizer import ReconstructionTraining, build_tokenizer_optimizers, clipped, evaluate, smaller_sizes
from ..training.accelerator import build_accelerator
from ..training.loop import Loop
from ..training.run import Run, finished_model
from .players import Players, build_discriminator
from .rollbacks import Rollbacks


def train_adversarial(
    config: ReconstructionTraining, make: Callable[[], VQTokenizer], inputs: Mapping[str, str] | None = None
) -> Path:
    """Train a tokenizer with the losses of its configuration, or finish training it; returns its folder.

    Its losses and those of the discriminator share no weights, so that one backward pass serves both. Where the
    validation PSNR falls after the tokenizer has begun to see the discriminator, the run goes back to where it had not.

    Args:
        config: of the training.
        make: makes the tokenizer, of which parts may be frozen.
        inputs: hashes of what the run is made from beside its images.

    Raises:
        InputError: as `train_tokenizer`, and for features that are not installed.
    """
    accelerator = build_accelerator(config)
    if found := finished_model(config, lambda: inputs or {}):
        return found
    settings, perceptual = config.discriminator, None
    if config.perceptual_weight:
        perceptual = PerceptualLoss(config.perceptual.backbone, config.perceptual.weights).to(accelerator.device)
    set_seed(config.seed)
    tokenizer = make()
    judge = build_discriminator(config.data.shape, settings) if config.adversarial_weight else None
    model = Players(tokenizer, judge, settings, config.gradient_accumulation_steps)
    train_set, evaluation_set = load_splits(config.data)
    images_of = {"train images": train_set.fingerprint, "evaluation images": evaluation_set.fingerprint}
    run = Run(config.output_dir, config, accelerator, {**images_of, **(inputs or {})})
    report_bad_images(run.folder, train_set, evaluation_set, accelerator.is_main_process)
    if run.finished:
        return run.folder / "model"

    fused = accelerator.device.type != "cpu"  # there it rounds otherwise, and what players amplify would part processes
    optimizers = build_tokenizer_optimizers(tokenizer, config, config.optimizer, fused)
    own = len(optimizers)
    judging = list(judge.parameters()) if judge else []
    if judging:
        groups = [{"params": judging, "peak": settings.learning_rate, "weight_decay": 0.0}]
        optimizers.append(torch.optim.AdamW(groups, betas=(0.5, 0.9), fused=fused))
    smaller = smaller_sizes(tokenizer.config)
    loop = Loop(run, "tokenizer", model, optimizers, train_set, config.data.num_workers, smaller)
    parameters = clipped(loop.optimizers[:own])
    distance = F.mse_loss if config.reconstruction_loss == "l2" else F.l1_loss
    rollbacks = Rollbacks(run, settings.max_rollbacks)
    turned = config.turning_point

    with loop:
        for batch in loop:
            images = to_model(batch["images"])
            if config.data.horizontal_flip:
                flipped = loop.drawn(len(images), 0.5)
                images = torch.where(flipped[:, None, None, None], images.flip(-1), images)
            weight = config.adversarial_weight * rollbacks.share * ramp(loop.step_number, turned, settings.ramp)
            plays = judge is not None and rollbacks.share > 0 and loop.step_number >= turned - settings.lead
            draws = augmentation_draws(config.seed, loop.number, len(images)) if settings.augmentation else None

            with loop.step():
                output, game = loop.model(images, plays, weight > 0, draws)
                visible = reconstruction_loss = distance(output.reconstructions.float(), images)
                terms = output.quantizer.terms | {"reconstruction_loss": reconstruction_loss}
                if perceptual:
                    terms["perceptual_loss"] = perceptual(images, output.reconstructions.float())
                    visible = visible + config.perceptual_weight * terms["perceptual_loss"]
                loss = visible + output.quantizer.loss
                if game:
                    if weight > 0 and settings.adaptive:
                        weight = weight * adaptive_weight(visible, game.adversarial_loss, model.last_layer)
                    loss = loss + weight * game.adversarial_loss
                    terms |= game.terms | {"adversarial_weight": torch.as_tensor(weight, device=loss.device)}
                loop.backward(loss + game.discriminator_loss if game else loss, {"loss": loss} | terms)
                moved = loop.optimizers if plays else loop.optimizers[:own]
                loop.update(*moved, **parameters, discriminator=judging)

            if loop.due(config.log_every):
                loop.log("images", config.batch_size)
            if loop.due(config.evaluate_every, turned):
                scores = evaluate(loop, loop.evaluated.tokenizer, evaluation_set, config)
                if said := rollbacks.after(loop.step_number, "psnr", scores["psnr"], config.rollback_psnr):
                    loop.say(said, warning=True)
                    break
        else:
            return run.save_model(loop.evaluated.tokenizer)
    return train_adversarial(config, make, inputs)  # as a run that was killed resumes
