"""What a prior needs whose weights are sharded over processes (FSDP2)."""

import torch
from accelerate import Accelerator, init_empty_weights
from accelerate.utils import fsdp2_prepare_model
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wvq.prior.loss import TokenLoss
from wvq.prior.model import PRIOR_CLASSES
from wvq.tokenizer.distributed import whole_tensor


class WeightAverage(AveragedModel):
    """Exponential moving average of the weights of a model; its buffers are the model's latest.

    `AveragedModel` keeps the number of updates beside the weights, and would ask a GPU for it in every step.
    """

    def __init__(self, model: nn.Module, decay: float, device: torch.device):
        super().__init__(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.decay = decay
        self.to(device)
        self.n_averaged = self.n_averaged.cpu()

    @torch.no_grad()
    def follow(self, model: nn.Module, made: Tensor | bool) -> None:
        """Move towards the weights of `model` after a step that was made, or not; a bool scalar on the device."""
        if made is True or made is False or self.n_averaged == 0:
            if made is not False:
                self.update_parameters(model)
            return
        for own, other in zip(self.module.parameters(), model.parameters(), strict=True):
            own.lerp_(other.to(own.device), torch.where(made, 1 - self.decay, 0.0).to(own.dtype))
        for own, other in zip(self.module.buffers(), model.buffers(), strict=True):
            own.copy_(other)
        self.n_averaged += 1


def weight_average(model: nn.Module, decay: float, accelerator: Accelerator) -> WeightAverage:
    """Exponential moving average of the weights of a model that is not prepared yet, since shards cannot be copied.

    Under FSDP2 it is sharded as the model will be.
    """
    average = WeightAverage(model, decay, accelerator.device)
    if accelerator.is_fsdp2:
        fsdp2_prepare_model(accelerator, average.module)
    return average


def whole_model(model: TokenLoss) -> TokenLoss:
    """The model itself or, if it is sharded or knows the geometry of the codes, a plain one around a plain prior.

    A collective call. The plain model can be evaluated, sampled from and saved by one process alone, as shards cannot,
    and its tables are folded. While it lives it takes 4 bytes a parameter of shards, else only those of the two tables.
    """
    state = model.state_dict()
    if model.geometry is None and not any(isinstance(value, DTensor) for value in state.values()):
        return model
    description = model.prior.config
    with init_empty_weights(include_buffers=False):
        prior = PRIOR_CLASSES[description.model_type](description)
    own = {name.removeprefix("prior."): value for name, value in state.items() if name.startswith("prior.")}
    prior.load_state_dict({name: whole_tensor(value) for name, value in own.items()}, assign=True)
    prior.tie_weights()
    if model.geometry is not None:
        model.geometry.fold_into(prior)
    return TokenLoss(prior, model.num_codes, model.label_smoothing).to(next(iter(state.values())).device)
