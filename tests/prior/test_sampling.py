"""Drawing tokens from a prior: `wvq.prior.sampling`, against transformers' generate and a reference without a cache."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import LlamaForCausalLM

from wvq.prior import PriorConfig, build_prior, sample_tokens
from wvq.tokenizer import InputError
from wvq.tokenizer.errors import NonFiniteError

CODES, CLASSES, TOKENS = 24, 3, 12
NULL = CLASSES


@pytest.fixture(scope="module")
def prior() -> LlamaForCausalLM:
    """A prior whose weights are large enough that its logits differ clearly."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = PriorConfig(
        hidden_size=32, num_layers=2, num_heads=2, num_codes=CODES, num_tokens=TOKENS, num_classes=CLASSES
    )
    model: Any = build_prior(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter *= 12
    return model


def draw(model: LlamaForCausalLM, labels: list[int] | torch.Tensor, seed: int = 0, **options: Any) -> torch.Tensor:
    options = {"generator": torch.Generator().manual_seed(seed)} | options
    return sample_tokens(model, torch.as_tensor(labels), num_tokens=TOKENS, num_codes=CODES, **options)


def labels_of(batch: int) -> torch.Tensor:
    return torch.arange(batch) % (CLASSES + 1)


def scores_without_cache(model: LlamaForCausalLM, label: int, tokens: torch.Tensor, guidance: float) -> np.ndarray:
    """Guided log-probabilities (T, K) of one image, each position from a whole pass over its prefix."""

    def one_class(label: int) -> torch.Tensor:
        rows = []
        for position in range(len(tokens)):
            prefix = torch.cat([torch.tensor([CODES + label]), tokens[:position]])[None]
            with torch.no_grad():
                rows.append(model(input_ids=prefix, use_cache=False).logits[0, -1].double().log_softmax(-1)[:CODES])
        return torch.stack(rows)

    null = one_class(NULL)
    return (null + guidance * (one_class(label) - null)).numpy()


@pytest.mark.parametrize("batch", [1, 3, 16])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_greedy_tokens_are_those_of_generate(prior, batch, guidance):
    labels = labels_of(batch)
    options: dict[str, Any] = {}
    if guidance != 1:
        options = {"guidance_scale": guidance, "negative_prompt_ids": torch.full((batch, 1), CODES + NULL)}
    expected = prior.generate(
        (CODES + labels)[:, None],
        attention_mask=torch.ones(batch, 1, dtype=torch.int64),
        do_sample=False,
        min_new_tokens=TOKENS,
        max_new_tokens=TOKENS,
        suppress_tokens=list(range(CODES, CODES + CLASSES + 1)),
        **options,
    )[:, 1:]
    assert torch.equal(draw(prior, labels, temperature=0.0, guidance_scale=guidance), expected)
    assert len(expected.unique(dim=0)) == min(batch, CLASSES + 1)  # else this would show little


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_cached_draws_are_those_of_the_whole_pass(prior, guidance, temperature):
    labels = labels_of(4)
    draws = torch.rand(4, TOKENS, dtype=torch.float64, generator=torch.Generator().manual_seed(7)).numpy()
    tokens = draw(prior, labels, seed=7, guidance_scale=guidance, temperature=temperature)
    for label, row, uniform in zip(labels.tolist(), tokens, draws, strict=True):
        scores = scores_without_cache(prior, label, row, guidance) / temperature
        cumulative = np.exp(scores - scores.max(axis=1, keepdims=True)).cumsum(axis=1)
        targets = uniform * cumulative[:, -1]
        assert [np.searchsorted(c, t, side="right") for c, t in zip(cumulative, targets, strict=True)] == row.tolist()


def test_guidance_one_ignores_the_null_class_and_guidance_zero_is_the_null_class(prior):
    assert torch.equal(draw(prior, [0, 1], guidance_scale=0.0), draw(prior, [NULL, NULL]))
    assert torch.equal(draw(prior, [NULL, NULL], guidance_scale=3.0), draw(prior, [NULL, NULL]))
    assert not torch.equal(draw(prior, [0, 1]), draw(prior, [NULL, NULL]))


@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"guidance_scale": 2.0}, {"top_k": 5, "min_p": 0.1}])
def test_class_ids_are_never_drawn_however_probable(prior, options):
    expected = draw(prior, labels_of(16), **options)
    lift = torch.zeros(CODES + CLASSES + 1)
    lift[CODES:] = 1e4
    handle = prior.lm_head.register_forward_hook(lambda module, inputs, output: output + lift)
    try:
        tokens = draw(prior, labels_of(16), **options)
    finally:
        handle.remove()
    assert torch.equal(tokens, expected)
    assert tokens.dtype == torch.int64
    assert tokens.max() < CODES


def test_an_image_depends_on_its_own_generator_alone(prior):
    def generators(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    together = draw(prior, [0, 1, 2, 1], generator=generators(5, 6, 7, 8), guidance_scale=2.0)
    for i, (label, seed) in enumerate([(0, 5), (1, 6), (2, 7), (1, 8)]):
        assert torch.equal(draw(prior, [label], generator=generators(seed), guidance_scale=2.0)[0], together[i])
    reordered = draw(prior, [1, 2, 1, 0], generator=generators(8, 7, 6, 5), guidance_scale=2.0)
    assert torch.equal(reordered.flip(0), together)


def test_one_generator_repeats_and_goes_on_and_none_uses_the_global_one(prior):
    generator = torch.Generator().manual_seed(3)
    first, second = (draw(prior, [0, 1], generator=generator) for _ in range(2))
    assert torch.equal(first, draw(prior, [0, 1], seed=3))
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(first, draw(prior, [0, 1], generator=None))


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-4}])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_hardest_truncations_are_greedy(prior, options, guidance):
    greedy = draw(prior, labels_of(8), temperature=0.0, guidance_scale=guidance)
    assert torch.equal(draw(prior, labels_of(8), guidance_scale=guidance, **options), greedy)


@pytest.mark.parametrize("options", [{"top_k": 4}, {"top_p": 0.6}, {"min_p": 0.3}])
def test_truncations_keep_the_codes_they_promise(prior, options):
    labels = torch.zeros(2000, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    tokens = sample_tokens(prior, labels, num_tokens=1, num_codes=CODES, generator=generator, **options)
    probabilities = np.exp(scores_without_cache(prior, 0, torch.zeros(1, dtype=torch.int64), 1.0)[0])
    probabilities /= probabilities.sum()
    order = probabilities.argsort()[::-1]
    if "top_k" in options:
        kept = order[: options["top_k"]]
    elif "top_p" in options:
        kept = order[: np.searchsorted(probabilities[order].cumsum(), options["top_p"]) + 1]
    else:
        kept = np.flatnonzero(probabilities >= options["min_p"] * probabilities.max())
    assert 1 < len(kept) < CODES
    assert set(tokens.flatten().tolist()) == set(kept.tolist())


def test_drawn_frequencies_are_the_probabilities(prior):
    labels = torch.zeros(20_000, dtype=torch.int64)
    tokens = sample_tokens(prior, labels, 1, CODES, temperature=2.0, generator=torch.Generator().manual_seed(0))
    shares = np.exp(scores_without_cache(prior, 0, torch.zeros(1, dtype=torch.int64), 1.0)[0] / 2)
    expected = shares / shares.sum() * len(labels)
    assert expected.min() > 5
    assert chisquare(np.bincount(tokens.flatten(), minlength=CODES), expected).pvalue > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance_scale": -0.5}, r"guidance_scale is -0.5; it must be finite and at least 0"),
        ({"temperature": -1.0}, r"temperature is -1.0; it must be at least 0 \(0 is greedy\)"),
        ({"top_k": -1}, r"top_k is -1; it must be at least 0"),
        ({"top_p": 0.0}, r"top_p is 0.0; it must be in \(0, 1\]"),
        ({"top_p": 1.1}, r"top_p is 1.1; it must be in \(0, 1\]"),
        ({"min_p": -0.1}, r"min_p is -0.1; it must be in \[0, 1\]"),
        ({"min_p": 1.5}, r"min_p is 1.5; it must be in \[0, 1\]"),
        ({"generator": [torch.Generator()]}, r"1 generators were given for 2 images"),
        (
            {"class_labels": torch.tensor([0, NULL + 1])},
            r"from 0 to 4; valid are 0 to 3, the last being the null class",
        ),
        ({"class_labels": torch.tensor([-1])}, r"from -1 to -1; valid are 0 to 3"),
        ({"class_labels": torch.tensor([[0]])}, r"class_labels has shape \(1, 1\); it must be \(B,\)"),
        ({"class_labels": torch.empty(0, dtype=torch.int64)}, r"class_labels has shape \(0,\)"),
    ],
)
def test_bad_arguments_are_named_with_their_value(prior, options, message):
    with pytest.raises(InputError, match=message):
        sample_tokens(prior, **{"class_labels": torch.tensor([0, 1]), "num_tokens": 2, "num_codes": CODES} | options)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_its_mode_and_sampled_without_dropout(training):
    size = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "attention_dropout": 0.9}
    model = build_prior(PriorConfig(num_codes=8, num_tokens=6, **size)).train(training)
    labels = torch.zeros(2, dtype=torch.int64)
    first, second = (sample_tokens(model, labels, 6, 8, temperature=0.0) for _ in range(2))
    assert model.training == training
    assert torch.equal(first, second)


def test_the_callback_sees_each_position_with_the_tokens_so_far(prior):
    seen: list[tuple[int, torch.Tensor]] = []
    tokens = draw(prior, [0, 1], on_token=lambda position, so_far: seen.append((position, so_far.clone())))
    assert [position for position, _ in seen] == list(range(TOKENS))
    assert all(torch.equal(so_far, tokens[:, : position + 1]) for position, so_far in seen)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["lm_head", "model.layers.1.mlp.up_proj"])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"guidance_scale": 2.0}, {"top_k": 1}])
def test_one_bad_weight_is_an_error_and_no_class_id(prior, name, value, options):
    damaged = copy.deepcopy(prior)
    with torch.no_grad():
        damaged.get_submodule(name).weight[3, 0] = value
    with pytest.raises(NonFiniteError, match="the scores of image 0 at position 0 are not finite"):
        draw(damaged, [0, 1], **options)


def test_scores_that_are_not_finite_are_named_where_they_are(prior):
    calls = 0

    def spoil(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return output.index_fill(0, torch.tensor(1), float("nan")) if calls == 4 else output

    handle = prior.lm_head.register_forward_hook(spoil)
    try:
        with pytest.raises(NonFiniteError, match="of image 1 at position 3 are not finite"):
            draw(prior, [0, 1])
    finally:
        handle.remove()


@pytest.mark.parametrize("scale", [1e39, 1e300])
def test_guidance_too_large_for_float32_is_an_error(prior, scale):
    with pytest.raises(NonFiniteError, match="at position 0 are not finite; try a lower guidance_scale"):
        draw(prior, [0, 1], guidance_scale=scale)


@pytest.mark.parametrize("temperature", [1e-46, 1e-45, 1e-39, 5e-324])
def test_a_temperature_too_small_for_float32_is_greedy(prior, temperature):
    assert torch.equal(draw(prior, labels_of(8), temperature=temperature), draw(prior, labels_of(8), temperature=0.0))


def test_tokens_are_ordinary_tensors(prior):
    seen: list[torch.Tensor] = []
    expected = draw(prior, [0, 1])

    def change(position: int, tokens: torch.Tensor) -> None:
        prior.get_input_embeddings()(tokens).sum().backward()  # inference tensors cannot be saved for this
        seen.append(tokens.fill_(0))

    tokens = draw(prior, [0, 1], on_token=change)
    prior.zero_grad()
    assert torch.equal(tokens, expected)  # what the callback did to its copies changed nothing
    assert not any(tensor.is_inference() for tensor in (tokens, *seen))


def test_only_what_is_unknown_is_drawn_whatever_is_known_around_it(prior):
    whole = draw(prior, [0, 1], temperature=0.0)
    known, seen = whole.clone(), []
    known[0, 2], known[1, 5:7] = -1, -1
    options: dict[str, Any] = {"temperature": 0.0, "known_tokens": known}
    again = draw(prior, [0, 1], on_token=lambda position, so_far: seen.append((position, so_far.shape[1])), **options)
    assert seen == [(2, 3), (5, 6), (6, 7)]
    assert torch.equal(again, whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_codes": CODES - 4}, "num_codes is 20; this prior has 24"),
        ({"num_tokens": TOKENS + 1}, "num_tokens is 13; this prior has 12, and draws the first of them"),
    ],
)
def test_other_counts_than_those_of_the_prior_are_refused(prior, changes, message):
    counts: Any = {"num_tokens": TOKENS, "num_codes": CODES} | changes
    with pytest.raises(InputError, match=message):
        sample_tokens(prior, torch.tensor([0]), **counts)


def test_a_model_that_does_not_say_its_codes_has_as_many_as_its_vocabulary_holds(prior):
    foreign = copy.deepcopy(prior)
    del foreign.config.num_codes
    assert torch.equal(draw(foreign, [0], temperature=0.0), draw(prior, [0], temperature=0.0))
    with pytest.raises(InputError, match="num_codes is 99; the model's vocabulary of 28 leaves room for 1 to 27"):
        sample_tokens(foreign, torch.tensor([0]), TOKENS, 99)
