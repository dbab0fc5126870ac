"""What a prior needs whose weights are sharded over processes (FSDP2)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator, init_empty_weights
from accelerate.utils import fsdp2_prepare_model
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wvq.prior.code_geometry import CodeGeometry
from wvq.prior.loss import TokenLoss
from wvq.prior.model import PRIOR_CLASSES
from wvq.prior.order.target_positions import TargetPositions
from wvq.tokenizer.distributed import process_index, whole_tensor
from wvq.tokenizer.quantizers.codebook import CodebookQuantizer


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
        """Move towards the weights of `model` after a step that was made, or not; a bool scalar on the device.

        A codebook that waits for data holds vectors of the latest step, which are no codes: it is taken as it is, up to
        the step in which its codes are drawn, and averaged from there.
        """
        both = zip(self.module.modules(), model.modules(), strict=True)
        codebooks = [(a, b) for a, b in both if isinstance(a, CodebookQuantizer) and isinstance(b, CodebookQuantizer)]
        waiting = [(own, other) for own, other in codebooks if own.waiting]
        if made is True or made is False or self.n_averaged == 0:
            if made is not False:
                self.update_parameters(model)
        else:
            weight = torch.where(made, 1 - self.decay, 0.0)
            for own, other in zip(self.module.parameters(), model.parameters(), strict=True):
                own.lerp_(other.to(own.device), weight.to(own.dtype))
            for own, other in zip(self.module.buffers(), model.buffers(), strict=True):
                own.copy_(other)
            self.n_averaged += 1
        for own, other in waiting:
            own.start_as(other)


def weight_average(model: nn.Module, decay: float, accelerator: Accelerator) -> WeightAverage:
    """Exponential moving average of the weights of a model that is not prepared yet, since shards cannot be copied.

    Under FSDP2 it is sharded as the model will be.
    """
    average = WeightAverage(model, decay, accelerator.device)
    if accelerator.is_fsdp2:
        fsdp2_prepare_model(accelerator, average.module)
    return average


def is_sharded(module: nn.Module) -> bool:
    """Whether the weights of a module are shared out over processes."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


@contextmanager
def evaluated_model(model: TokenLoss) -> Iterator[TokenLoss]:
    """The model for forward passes without gradients: the sharded one itself, or `whole_model`.

    Of a sharded one each layer is gathered while it is used, so that all processes have to make as many passes.
    """
    if not is_sharded(model):
        yield whole_model(model)
        return
    try:
        yield model
    finally:
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # what no backward pass follows stays gathered, and would pass for the weights


def whole_model(model: TokenLoss) -> TokenLoss:
    """The model itself or, if it is sharded or holds what is folded into the prior, a plain one around a plain prior.

    The plain model can be sampled from and saved by one process alone, as shards cannot, and its tables are folded. One
    that was sharded is on the first process alone, in main memory, 4 bytes a parameter; the others have it without its
    weights. A collective call then, which puts one tensor after the other together, so that they never have all.
    """
    sharded = is_sharded(model)
    if model.geometry is None and model.target_positions is None and not sharded:
        return model
    state = model.state_dict()
    device = torch.device("cpu") if sharded else next(iter(state.values())).device
    weights: dict[str, Tensor] = {}
    for name, value in state.items():
        whole = whole_tensor(value)
        if not sharded or process_index() == 0:
            weights[name] = whole.to(device)
    description = model.prior.config
    with init_empty_weights(include_buffers=False):
        prior = PRIOR_CLASSES[description.model_type](description)
    if not weights:
        return TokenLoss(prior, model.num_codes, model.label_smoothing)
    prior.load_state_dict(_part(weights, "prior."), assign=True)
    prior.tie_weights()
    if model.geometry is not None:
        geometry = CodeGeometry(model.geometry.features.to(device), prior)
        geometry.load_state_dict(_part(weights, "geometry."), assign=True)
        geometry.fold_into(prior)
    if model.target_positions is not None:
        target_positions = TargetPositions(prior)
        target_positions.load_state_dict(_part(weights, "target_positions."), assign=True)
        target_positions.fold_into(prior)
    return TokenLoss(prior, model.num_codes, model.label_smoothing).to(device)


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
