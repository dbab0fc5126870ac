"""Decoding with a cache: `wvq.prior.decoder.llama`, against the models' own forward pass and their generate."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from wvq.prior import PriorConfig, build_prior, sample_tokens, sampling
from wvq.prior.decoder import build_decoder
from wvq.prior.decoder.any_model import ModelDecoder
from wvq.prior.decoder.cache import PAGE
from wvq.prior.decoder.gpt2 import GPT2Decoder
from wvq.prior.decoder.llama import LlamaDecoder
from wvq.prior.decoder.packed_linear import FEW_ROWS
from wvq.tokenizer import InputError

CODES, CLASSES, TOKENS = 24, 3, 2 * PAGE + 6
NULL = CLASSES


def loud_prior(architecture: Any, **changes: Any) -> PreTrainedModel:
    """A prior whose weights are large enough that its logits differ clearly."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    options: dict[str, Any] = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "num_tokens": TOKENS} | changes
    model = build_prior(PriorConfig(architecture=architecture, num_codes=CODES, num_classes=CLASSES, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += (parameter.ndim == 1) * 0.2 * torch.randn_like(parameter)
            parameter *= 6 if parameter.ndim == 2 else 1
    return model


def grouped_prior() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    vocabulary = {"vocab_size": CODES + CLASSES + 1, "bos_token_id": None, "eos_token_id": None}
    return LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, **sizes, **vocabulary)).eval()


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def prior(request: pytest.FixtureRequest) -> PreTrainedModel:
    return loud_prior(request.param)


def random_sequences(rows: int, length: int) -> Tensor:
    return torch.randint(CODES, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("first", [1, 5, PAGE, 2 * PAGE + 3])
@pytest.mark.parametrize("build", [build_decoder, lambda model, codes, rows: ModelDecoder(model, codes)])
@torch.inference_mode()
def test_cached_logits_are_those_of_the_whole_pass(prior, first, build):
    sequences = random_sequences(3, TOKENS + 1)
    expected = prior(sequences, use_cache=False).logits[:, :, :CODES]
    decoder = build(prior, CODES, 3)
    cache = decoder.new_cache(3, TOKENS + 1)
    for position in range(first - 1, TOKENS + 1):
        new = sequences[:, 0 if position == first - 1 else position : position + 1]
        logits = decoder.logits(decoder(new, cache))[:, 0]
        torch.testing.assert_close(logits, expected[:, position], rtol=0, atol=1e-5 * expected.abs().max())


@pytest.mark.parametrize("build", [build_decoder, lambda model, codes, rows: ModelDecoder(model, codes)])
@torch.inference_mode()
def test_logits_of_a_mixture_are_the_mixture_of_the_logits(prior, build):
    decoder = build(prior, CODES, 4)
    own, null = decoder(random_sequences(4, 6), decoder.new_cache(4, 6)).chunk(2)
    mixed, expected = (null + 3.0 * (own - null) for own, null in ((own, null), map(decoder.logits, (own, null))))
    torch.testing.assert_close(decoder.logits(mixed), expected, rtol=0, atol=1e-5 * expected.abs().max())


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_the_output_layer_computes_a_row_for_each_image(prior, guidance, monkeypatch):
    rows, kept = [], sampling.kept_decoder

    def recorded(*arguments: Any) -> Any:
        decoder = kept(*arguments)
        logits = decoder.logits
        monkeypatch.setattr(decoder, "logits", lambda features: (rows.append(len(features)), logits(features))[1])
        return decoder

    monkeypatch.setattr(sampling, "kept_decoder", recorded)
    sample_tokens(prior, torch.tensor([0, 1, 2]), TOKENS, CODES, guidance_scale=guidance)
    assert rows == [3] * TOKENS


@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_greedy_tokens_are_those_of_generate(prior, batch, guidance):
    labels = torch.arange(batch) % (CLASSES + 1)
    options: dict[str, Any] = {}
    if guidance != 1:
        options = {"guidance_scale": guidance, "negative_prompt_ids": torch.full((batch, 1), CODES + NULL)}
    expected = prior.generate(  # pyright: ignore[reportCallIssue]
        (CODES + labels)[:, None],
        attention_mask=torch.ones(batch, 1, dtype=torch.int64),
        do_sample=False,
        min_new_tokens=TOKENS,
        max_new_tokens=TOKENS,
        suppress_tokens=list(range(CODES, CODES + CLASSES + 1)),
        **options,
    )[:, 1:]
    tokens = sample_tokens(prior, labels, TOKENS, CODES, guidance_scale=guidance, temperature=0.0)
    assert torch.equal(tokens, expected)
    assert len(expected.unique(dim=0)) == min(batch, CLASSES + 1)  # else this would show little


@pytest.mark.parametrize(
    ("architecture", "decoder", "changes"),
    [("llama", LlamaDecoder, {}), ("gpt2", GPT2Decoder, {}), ("llama", LlamaDecoder, {"tie_embeddings": True})],
)
def test_a_plain_model_is_read_and_draws_what_the_called_one_draws(architecture, decoder, changes):
    model = loud_prior(architecture, **changes)
    options: dict[str, Any] = {"guidance_scale": 2.0, "top_k": 9}
    labels = torch.tensor([0, 1, 2])
    assert isinstance(build_decoder(model, CODES, 6), decoder)
    read = sample_tokens(model, labels, TOKENS, CODES, generator=torch.Generator().manual_seed(0), **options)
    handle = model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output)
    assert isinstance(build_decoder(model, CODES, 6), ModelDecoder)
    called = sample_tokens(model, labels, TOKENS, CODES, generator=torch.Generator().manual_seed(0), **options)
    handle.remove()
    assert torch.equal(read, called)


def test_what_is_not_plain_is_called():
    class Adapted(nn.Linear):
        pass

    model = loud_prior("llama")
    model.model.layers[0].self_attn.q_proj = Adapted(32, 32, bias=False)
    for odd in (model, grouped_prior()):
        assert isinstance(build_decoder(odd, CODES, 2), ModelDecoder)
        with pytest.raises(InputError, match=r"dtype is torch.bfloat16; only a plain Llama or GPT-2"):
            build_decoder(odd, CODES, 2, torch.bfloat16)


@torch.inference_mode()
def test_bfloat16_matrices_are_close_and_a_bfloat16_model_stays_one(prior):
    sequences = random_sequences(3, 12)
    expected = prior(sequences, use_cache=False).logits[:, -1, :CODES]
    decoder = build_decoder(prior, CODES, 3, torch.bfloat16)
    logits = decoder.logits(decoder(sequences, decoder.new_cache(3, 12)))[:, 0]
    assert logits.dtype == torch.float32
    error = (logits - expected).square().mean().sqrt() / expected.std()
    assert 1e-5 < error < 0.1
    tokens = sample_tokens(prior, torch.tensor([0]), TOKENS, CODES, dtype=torch.bfloat16)
    assert tokens.shape == (1, TOKENS)


@pytest.mark.parametrize("rows", [1, FEW_ROWS, FEW_ROWS + 1])
@torch.inference_mode()
def test_int8_matrices_are_those_of_a_model_with_rounded_weights(prior, rows):
    """Whether they are held as int8 or, for many rows, as bfloat16; bfloat16 has its own error beside float32."""
    sequences, rounded = random_sequences(rows, 12), copy.deepcopy(prior)
    inside = ("q_proj", "k_proj", "v_proj", "o_proj", "gate", "up_proj", "down", "c_attn", "c_proj", "c_fc", "lm_head")
    for name, weight in rounded.named_parameters():
        if weight.ndim == 2 and any(part in name for part in inside):
            dim = 0 if name.startswith("transformer.h") else 1
            step = weight.abs().amax(dim=dim, keepdim=True) / 127
            weight.copy_((weight / step).round() * step)
    half = build_decoder(rounded, CODES, rows, torch.bfloat16)
    decoder = build_decoder(prior, CODES, rows, torch.int8)
    expected, cache, half_cache = None, decoder.new_cache(rows, 12), half.new_cache(rows, 12)
    for new in (sequences[:, :10], sequences[:, 10:11], sequences[:, 11:]):  # a prompt, then single tokens
        logits, expected = (d.logits(d(new, c))[:, 0] for d, c in ((decoder, cache), (half, half_cache)))
        assert (logits - expected).square().mean().sqrt() < 0.1 * expected.std()
    whole = prior(sequences, use_cache=False).logits[:, -1, :CODES]
    assert 1e-4 < (logits - whole).square().mean().sqrt() / whole.std() < 0.15


@pytest.mark.parametrize(("block_size", "images"), [(1, 6), (16, 64)])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_an_image_is_the_same_in_any_batch_and_with_any_number_of_threads(guidance, block_size, images):
    wide = loud_prior("llama", hidden_size=192, num_heads=3)
    labels = torch.arange(images) % CLASSES

    def tokens_of(numbers: range) -> Tensor:
        generators = [torch.Generator().manual_seed(number) for number in numbers]
        chosen = labels[numbers.start : numbers.stop]
        options: Any = {"guidance_scale": guidance, "generator": generators, "block_size": block_size}
        return sample_tokens(wide, chosen, 40, CODES, **options)

    together, some = tokens_of(range(images)), [0, images // 3, images - 1]
    assert torch.equal(torch.cat([tokens_of(range(s, min(s + 7, images))) for s in range(0, images, 7)]), together)
    assert torch.equal(torch.cat([tokens_of(range(i, i + 1)) for i in some]), together[some])
    torch.set_num_threads(2)
    try:
        assert torch.equal(tokens_of(range(images // 4, images // 2)), together[images // 4 : images // 2])
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("rows", [1, 7, 16])
@torch.inference_mode()
def test_in_blocks_of_one_size_the_very_logits_are_equal(rows):
    """The reason for blocks: with the batch's own number of rows the last bits differ."""
    wide = loud_prior("llama", hidden_size=192, num_heads=3)
    sequences = random_sequences(16, 8)
    decoder = build_decoder(wide, CODES, 16)
    whole = decoder.logits(decoder(sequences, decoder.new_cache(16, 8)))
    filled = sequences[torch.arange(16).clamp(max=rows - 1).flip(0)]
    part = decoder.logits(decoder(filled, decoder.new_cache(16, 8))).flip(0)
    assert torch.equal(part[:rows], whole[:rows])
