"""The losses of adversarial training. Logits may have any shape; each counts alike, and in float32."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..distributed import num_processes, sum_over_processes


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """(mean max(0, 1 - real) + mean max(0, 1 + fake)) / 2, a scalar: 1 where all logits are 0 (arXiv 1705.02894)."""
    return (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()) / 2


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """Minus the mean logit of what was generated; a scalar."""
    return -fake.float().mean()


class LeCam(nn.Module):
    """LeCam regularization (arXiv 2104.03310): mean max(0, real - m_fake)^2 + mean max(0, m_real - fake)^2.

    m_real and m_fake are moving averages of mean logits over all processes, buffers and so in checkpoints.

    Args:
        decay: of the averages, which move once a call; with n calls for a step of the discriminator, take its nth root.
    """

    mean_real: Tensor
    mean_fake: Tensor

    def __init__(self, decay: float = 0.999):
        super().__init__()
        self.decay = decay
        self.register_buffer("mean_real", torch.zeros(()))
        self.register_buffer("mean_fake", torch.zeros(()))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """Move the averages, then give the penalty, a scalar; a collective call, with as many logits in each process.

        Means that are not finite move nothing: the step is to be skipped, the averages are to stay.
        """
        real, fake = real.float(), fake.float()
        means = sum_over_processes(torch.stack([real.detach().mean(), fake.detach().mean()])) / num_processes()
        weight = (1 - self.decay) * means.isfinite().all()
        self.mean_real += weight * (means[0].nan_to_num() - self.mean_real)
        self.mean_fake += weight * (means[1].nan_to_num() - self.mean_fake)
        return F.relu(real - self.mean_fake).square().mean() + F.relu(self.mean_real - fake).square().mean()


def r1_penalty(real_images: Tensor, logits: Tensor) -> Tensor:
    """Mean over images of the squared norm of the gradient of their mean logit (arXiv 1801.04406); a scalar.

    Args:
        real_images: (B, C, H, W), requiring a gradient.
        logits: theirs, (B, ...).
    """
    (gradient,) = torch.autograd.grad(logits.float().flatten(1).mean(1).sum(), real_images, create_graph=True)
    return gradient.float().square().flatten(1).sum(1).mean()


def adaptive_weight(
    reconstruction_loss: Tensor, adversarial_loss: Tensor, last_layer_weight: Tensor, limit: float = 1e4
) -> Tensor:
    """|gradient of the reconstruction loss| / (|that of the adversarial loss| + 1e-4) (arXiv 2012.09841, eq. 7).

    Gradients are those of all processes together, a collective call: a weight of each would not be that of the batch.

    Args:
        reconstruction_loss, adversarial_loss: scalars; their graphs are kept.
        last_layer_weight: with respect to which gradients are taken.
        limit: at most this is returned, a scalar without a gradient.
    """
    losses = (reconstruction_loss, adversarial_loss)
    gradients = [torch.autograd.grad(loss, last_layer_weight, retain_graph=True)[0].float() for loss in losses]
    of_reconstruction, adversarial = (
        (sum_over_processes(torch.stack(gradients)) / num_processes()).flatten(1).norm(dim=1)
    )
    return (of_reconstruction / (adversarial + 1e-4)).clamp(max=limit)


def ramp(step: int, start: int, length: int) -> float:
    """0 up to step `start`, then linear, 1 from `length` steps later; with length 0 it is 1 from `start` on."""
    return float(step >= start) if length == 0 else min(1.0, max(0.0, (step - start) / length))
