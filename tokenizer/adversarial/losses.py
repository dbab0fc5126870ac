"""The losses of adversarial training; of logits of any shape, each counts the same."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..distributed import sum_over_processes


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """(mean max(0, 1 - real) + mean max(0, 1 + fake)) / 2 of logits of any shape; scalar, 1 where all logits are 0."""
    return (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()) / 2


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """Minus the mean of the logits of what was generated; scalar."""
    return -fake.float().mean()


class LeCam(nn.Module):
    """LeCam regularization (arXiv 2104.03310, eq. 5): mean max(0, real - m_fake)^2 + mean max(0, m_real - fake)^2.

    m_real and m_fake are moving averages of the mean logits of all processes, in checkpoints as buffers. Called once
    for each step of the discriminator; a collective call where there are several processes.

    Args:
        decay: of the moving averages.
    """

    mean_real: Tensor
    mean_fake: Tensor

    def __init__(self, decay: float = 0.999):
        super().__init__()
        self.decay = decay
        self.register_buffer("mean_real", torch.zeros(()))
        self.register_buffer("mean_fake", torch.zeros(()))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """Move the averages by these logits, of any shape, and give the penalty, a scalar."""
        real, fake = real.float(), fake.float()
        sums = torch.stack([real.detach().sum(), fake.detach().sum()])
        counts = torch.tensor([real.numel(), fake.numel()], dtype=torch.float32, device=sums.device)
        sums, counts = sum_over_processes(torch.stack([sums, counts]))
        mean_real, mean_fake = sums / counts
        self.mean_real.lerp_(mean_real, 1 - self.decay)
        self.mean_fake.lerp_(mean_fake, 1 - self.decay)
        penalty_real = F.relu(real - self.mean_fake).square().mean()
        return penalty_real + F.relu(self.mean_real - fake).square().mean()


def r1_penalty(real_images: Tensor, logits: Tensor) -> Tensor:
    """Mean over images of the squared norm of the gradient of their mean logit (arXiv 1801.04406, eq. 9); scalar.

    Args:
        real_images: (B, C, H, W) that require a gradient.
        logits: (B, ...) of these images.
    """
    mean_logits = logits.float().flatten(1).mean(1).sum()
    (gradient,) = torch.autograd.grad(mean_logits, real_images, create_graph=True)
    return gradient.float().square().flatten(1).sum(1).mean()


def adaptive_weight(
    reconstruction_loss: Tensor, adversarial_loss: Tensor, last_layer_weight: Tensor, limit: float = 1e4
) -> Tensor:
    """Ratio of the norms of the gradients of two losses at the last layer (arXiv 2012.09841, eq. 7); no gradient.

    Args:
        reconstruction_loss, adversarial_loss: scalars whose graphs are kept.
        last_layer_weight: of the decoder.
        limit: most that is returned.
    """
    norms = [
        torch.autograd.grad(loss, last_layer_weight, retain_graph=True)[0].float().norm()
        for loss in (reconstruction_loss, adversarial_loss)
    ]
    return (norms[0] / (norms[1] + 1e-4)).clamp(max=limit).detach()


def ramp(step: int, start: int, length: int) -> float:
    """0 before step `start`, then rising linearly over `length` steps to 1."""
    if step < start:
        return 0.0
    return min(1.0, (step - start + 1) / max(1, length))
