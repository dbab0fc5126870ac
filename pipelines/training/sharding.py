"""What a prior needs whose weights are sharded over processes (FSDP2)."""

from accelerate import Accelerator, init_empty_weights
from accelerate.utils import fsdp2_prepare_model
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wvq.prior.loss import TokenLoss
from wvq.prior.model import PRIOR_CLASSES
from wvq.tokenizer.distributed import whole_tensor


def weight_average(model: nn.Module, decay: float, accelerator: Accelerator) -> AveragedModel:
    """Exponential moving average of the weights of a model that is not prepared yet, since shards cannot be copied.

    Under FSDP2 it is sharded as the model will be.
    """
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)).to(accelerator.device)
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
