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
    """The model itself or, if it is sharded, a plain copy with all of its weights on every process.

    A collective call. The copy can be evaluated, sampled from and saved by one process alone, as shards cannot; it
    takes 4 bytes a parameter while it lives.
    """
    state = model.state_dict()
    if not any(isinstance(value, DTensor) for value in state.values()):
        return model
    description = model.prior.config
    with init_empty_weights(include_buffers=False):
        prior = PRIOR_CLASSES[description.model_type](description)
    plain = TokenLoss(prior, model.num_codes, model.label_smoothing)
    plain.load_state_dict({name: whole_tensor(value) for name, value in state.items()}, assign=True)
    prior.tie_weights()
    return plain.to(next(iter(state.values())).device)
