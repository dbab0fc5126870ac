"""What a decoder prepared is kept between calls: `wvq.prior.decoder.kept`."""

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from wvq.prior import PriorConfig, build_prior, sample_tokens
from wvq.prior.decoder import forget_decoder, kept, kept_decoder
from wvq.prior.decoder.any_model import ModelDecoder

CODES, TOKENS = 12, 6
LABELS = torch.tensor([0, 1, 2])


def prior(architecture: Any = "llama") -> PreTrainedModel:
    torch.manual_seed(0)
    size: Any = {"architecture": architecture, "hidden_size": 16, "num_layers": 1, "num_heads": 2}
    model = build_prior(PriorConfig(num_codes=CODES, num_tokens=TOKENS, num_classes=2, **size)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 12
    return model


def tokens(model: PreTrainedModel) -> Tensor:
    return sample_tokens(model, LABELS, TOKENS, CODES, temperature=0.0)


def sgd_step(model: PreTrainedModel) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=30.0)
    model(input_ids=torch.arange(CODES).view(2, -1), labels=torch.arange(CODES).view(2, -1)).loss.backward()
    optimizer.step()


def write_through_data(model: PreTrainedModel) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(torch.linspace(-1, 1, parameter.shape[-1]))


def load_others(model: PreTrainedModel) -> None:
    model.load_state_dict({name: weight.flip(0) for name, weight in model.state_dict().items()})


def swap_parameters(model: PreTrainedModel) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data.roll(1)


def change_one_bit(model: PreTrainedModel) -> None:
    for parameter in model.parameters():
        parameter.data.view(torch.int32).view(-1)[5] ^= 1


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("change", [sgd_step, write_through_data, load_others, swap_parameters])
def test_a_decoder_follows_every_change_of_the_weights(architecture, change):
    model = prior(architecture)
    before = tokens(model)
    change(model)
    assert torch.equal(tokens(model), tokens(copy.deepcopy(model)))
    assert not torch.equal(tokens(model), before)


def test_it_is_kept_for_the_same_weights_and_arguments_alone():
    model = prior()
    first = kept_decoder(model, CODES, 3)
    assert kept_decoder(model, CODES, 3) is first
    for arguments in [(CODES, 4), (CODES - 1, 3), (CODES, 3, torch.bfloat16), (CODES, 3)]:
        before, first = first, kept_decoder(model, *arguments)
        assert first is not before
    change_one_bit(model)
    assert kept_decoder(model, CODES, 3) is not first


def test_it_is_kept_of_models_of_any_type_and_made_in_inference_mode():
    for dtype in (torch.bfloat16, torch.float64):
        model = prior().to(dtype)  # pyright: ignore[reportArgumentType]  # its decorator hides its self
        assert kept_decoder(model, CODES, 3) is kept_decoder(model, CODES, 3)
    with torch.inference_mode():
        model = prior()
        assert kept_decoder(model, CODES, 3) is kept_decoder(model, CODES, 3)


def test_it_is_freed_with_its_model_and_does_not_keep_it():
    model = prior()
    tokens(model)
    decoder, alive = weakref.ref(kept_decoder(model, CODES, 3)), weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
    assert decoder() is None


def test_what_is_kept_can_be_freed_and_is_prepared_anew():
    model = prior()
    first = tokens(model)
    decoder = weakref.ref(kept_decoder(model, CODES, 3))
    forget_decoder(model)
    forget_decoder(model)
    gc.collect()
    assert decoder() is None
    assert torch.equal(tokens(model), first)


def test_nothing_is_kept_of_a_model_in_training_mode_or_one_that_is_called():
    model = prior().train()
    tokens(model)
    assert model not in kept._kept
    tokens(model.eval())
    assert model in kept._kept
    other = prior()
    other.get_input_embeddings().register_forward_hook(lambda *_: None)
    assert isinstance(kept_decoder(other, CODES, 3), ModelDecoder)
    assert other not in kept._kept


def test_the_one_before_is_freed_before_the_next_is_built(monkeypatch: pytest.MonkeyPatch):
    model, build, alive = prior(), kept.build_decoder, []
    before = weakref.ref(kept_decoder(model, CODES, 3))

    def watched(*arguments: Any) -> Any:
        alive.append(before())
        return build(*arguments)

    monkeypatch.setattr(kept, "build_decoder", watched)
    kept_decoder(model, CODES, 4)
    assert alive == [None]
