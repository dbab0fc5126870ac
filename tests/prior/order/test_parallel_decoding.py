"""Drawing from a prior of free order, against the plain model without a cache."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wvq.prior import PriorConfig, build_prior, sample_tokens
from wvq.prior.decoder import build_decoder
from wvq.prior.generate import PairsInOrder
from wvq.prior.order.passes import pass_sizes, spread_order
from wvq.tokenizer import InputError
from wvq.tokenizer.errors import NonFiniteError

CODES, CLASSES, TOKENS = 24, 3, 12
FIRST_CLASS = CODES + TOKENS
NULL = CLASSES


def prior_of(architecture: Any = "llama", **changes: Any) -> Any:
    """A prior whose weights are large enough that its logits differ clearly."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    counts = {"num_codes": CODES, "num_tokens": TOKENS, "num_classes": CLASSES, "token_order": "random", **changes}
    config = PriorConfig(architecture=architecture, hidden_size=32, num_layers=2, num_heads=2, **counts)
    model: Any = build_prior(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter *= 6
    return model


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def prior(request: pytest.FixtureRequest) -> Any:
    return prior_of(request.param)


@pytest.fixture(scope="module")
def llama() -> Any:
    return prior_of()


def draw(model: Any, labels: Sequence[int], **options: Any) -> torch.Tensor:
    return sample_tokens(model, torch.tensor(labels), TOKENS, CODES, **options)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def without_cache(
    model: Any, label: int, known: Sequence[int], guidance: float, sizes: Sequence[int], per_position: int = 1
) -> list[int]:
    """Greedy tokens of one image: pairs in the order of training, whose positions see no pair of their own pass."""
    order, tokens = spread_order(TOKENS, per_position).tolist(), list(known)
    given = [place for place in order if tokens[place] >= 0]
    starts = list(range(len(given)))  # of each pair, the first pair of its pass
    unknown = iter([place for place in order if tokens[place] < 0])

    def scores(label: int, places: Sequence[int]) -> torch.Tensor:
        ids = [FIRST_CLASS + label, *(number for each in given for number in (CODES + each, tokens[each]))]
        ids += [number for each in places for number in (CODES + each, 0)]  # a code that nobody sees
        seen = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
        for pair, start in enumerate([*starts, *[len(given)] * len(places)]):
            seen[1 + 2 * pair, 1 + 2 * start : 1 + 2 * pair] = False
        mask = torch.zeros(1, 1, *seen.shape).masked_fill(~seen, float("-inf"))
        with torch.no_grad():
            logits = model(torch.tensor([ids]), attention_mask=mask, use_cache=False).logits
        return logits[0, 1 + 2 * len(given) :: 2, :CODES]

    for size in sizes:
        places = [next(unknown) for _ in range(size)]
        null = scores(NULL, places)
        for place, score in zip(places, null + guidance * (scores(label, places) - null), strict=True):
            first = place % per_position * (CODES // per_position)
            tokens[place] = first + int(score[first : first + CODES // per_position].argmax())
        starts += [len(given)] * size
        given += places
    return tokens


@pytest.mark.parametrize(("num_passes", "guidance"), [(None, 1.0), (TOKENS, 2.5), (5, 2.5), (2, 1.0)])
def test_greedy_tokens_are_those_without_a_cache(prior: Any, guidance: float, num_passes: int | None) -> None:
    sizes = pass_sizes(TOKENS, num_passes or TOKENS)
    expected = [without_cache(prior, label, [-1] * TOKENS, guidance, sizes) for label in range(CLASSES + 1)]
    found = draw(prior, range(CLASSES + 1), temperature=0.0, guidance_scale=guidance, num_passes=num_passes)
    assert found.tolist() == expected
    assert len({tuple(row) for row in expected}) > 1  # else this would show little


def test_one_position_a_pass_is_what_generate_draws_in_that_order(prior: Any) -> None:
    prompt = torch.arange(FIRST_CLASS, FIRST_CLASS + CLASSES + 1)[:, None]
    order = spread_order(TOKENS)
    generated = prior.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        logits_processor=[PairsInOrder(CODES, order.tolist())],
    )[:, 1:]
    assert torch.equal(generated[:, ::2] - CODES, order.expand(CLASSES + 1, -1))
    found = draw(prior, range(CLASSES + 1), temperature=0.0)
    assert torch.equal(found[:, order], generated[:, 1::2])


def test_an_image_depends_on_its_own_generator_alone(llama: Any) -> None:
    options: dict[str, Any] = {"guidance_scale": 2.0, "num_passes": 4, "block_size": 3}
    together = draw(llama, [0, 1, 2, 1], generator=generators(5, 6, 7, 8), **options)
    for i, (label, seed) in enumerate([(0, 5), (1, 6), (2, 7), (1, 8)]):
        assert torch.equal(draw(llama, [label], generator=generators(seed), **options)[0], together[i])
    assert len(together.unique(dim=0)) == 4
    assert torch.equal(together, draw(llama, [0, 1, 2, 1], generator=generators(5, 6, 7, 8), **options))


@pytest.mark.parametrize(("num_passes", "rows", "scored"), [(None, 8, 2), (4, 24, 6), (5, 24, 6), (1, 96, 24)])
def test_matrices_are_laid_out_for_the_rows_of_a_pass(
    llama: Any, monkeypatch: pytest.MonkeyPatch, num_passes: int | None, rows: int, scored: int
) -> None:
    asked: list[tuple[int, int]] = []

    def kept(model: Any, num_codes: int, rows: int, dtype: Any, scored: int) -> Any:
        asked.append((rows, scored))
        return build_decoder(model, num_codes, rows, dtype, scored)

    monkeypatch.setattr("wvq.prior.sampling.kept_decoder", kept)
    draw(llama, [0, 1], guidance_scale=2.0, num_passes=num_passes)  # a position and a code, twice, of two images
    assert asked == [(rows, scored)]


@settings(deadline=None, max_examples=8)
@given(
    known=st.lists(st.lists(st.integers(-1, CODES - 1), min_size=TOKENS, max_size=TOKENS), min_size=1, max_size=4),
    num_passes=st.integers(1, TOKENS),
)
def test_known_tokens_stay_and_all_of_them_are_seen(llama: Any, known: list[list[int]], num_passes: int) -> None:
    labels = [i % CLASSES for i in range(len(known))]
    options: dict[str, Any] = {"known_tokens": torch.tensor(known), "num_passes": num_passes, "temperature": 0.0}
    found = draw(llama, labels, guidance_scale=1.5, **options)
    for label, row, drawn in zip(labels, known, found.tolist(), strict=True):
        assert drawn == without_cache(llama, label, row, 1.5, pass_sizes(row.count(-1), num_passes))
        assert all(code in (-1, own) for code, own in zip(row, drawn, strict=True))


def test_what_comes_after_a_hole_changes_what_is_drawn_in_it(llama: Any) -> None:
    known = torch.randint(CODES, (1, TOKENS), generator=torch.Generator().manual_seed(0)).repeat(20, 1)
    known[:, 2:5] = -1
    known[:, TOKENS - 1] = torch.arange(20)
    drawn = draw(llama, [0] * 20, known_tokens=known, temperature=0.0, num_passes=2)
    assert len(drawn[:, 2:5].unique(dim=0)) > 1


def test_several_codes_a_position_are_drawn_in_turn() -> None:
    model = prior_of(codes_per_position=2)
    expected = [without_cache(model, label, [-1] * TOKENS, 1.0, pass_sizes(TOKENS, 4), 2) for label in range(CLASSES)]
    found = draw(model, range(CLASSES), temperature=0.0, codes_per_position=2, num_passes=4)
    assert found.tolist() == expected
    random = draw(model, [0] * 50, codes_per_position=2, num_passes=3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(random // (CODES // 2), torch.arange(TOKENS).expand(50, -1) % 2)


def test_the_guidance_of_a_schedule_is_that_of_the_number_of_known_tokens(llama: Any) -> None:
    late = {"guidance_scale": 3.0, "guidance_interval": (9, TOKENS), "temperature": 0.0, "num_passes": 3}
    none, guided = draw(llama, range(CLASSES), temperature=0.0, num_passes=3), draw(llama, range(CLASSES), **late)
    order = spread_order(TOKENS)
    assert torch.equal(guided[:, order[:9]], none[:, order[:9]])
    assert not torch.equal(guided, none)


def test_the_callback_sees_each_pass(llama: Any) -> None:
    seen: list[tuple[int, torch.Tensor]] = []
    known = torch.full((2, TOKENS), -1)
    known[1, 3:7] = 5
    tokens = draw(
        llama, [0, 1], num_passes=3, known_tokens=known, on_token=lambda place, so_far: seen.append((place, so_far))
    )
    assert [place + 1 for place, _ in seen] == [int((so_far >= 0).sum(dim=1).min()) for _, so_far in seen]
    assert [(so_far < 0).sum(dim=1).tolist() for _, so_far in seen] == [[10, 7], [6, 4], [0, 0]]
    assert torch.equal(seen[-1][1], tokens)
    assert not tokens.is_inference()
    assert torch.equal(draw(llama, [0], known_tokens=tokens[:1]), tokens[:1])  # nothing is left to be drawn


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_it_draws_codes_in_other_types(llama: Any, dtype: torch.dtype) -> None:
    tokens = draw(llama, [0, 1], num_passes=4, dtype=dtype)
    assert 0 <= tokens.min() <= tokens.max() < CODES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_passes": 0}, "num_passes is 0; it must be from 1 to num_tokens, 12"),
        ({"num_passes": 13}, "num_passes is 13; it must be from 1 to num_tokens, 12"),
        ({"num_tokens": 6}, "num_tokens is 6; this prior of free order has 12"),
        ({"class_labels": torch.tensor([NULL + 1])}, "from 4 to 4; valid are 0 to 3, the last being the null class"),
    ],
)
def test_bad_arguments_are_named(llama: Any, options: dict[str, Any], message: str) -> None:
    given = {"class_labels": torch.tensor([0]), "num_tokens": TOKENS, "num_codes": CODES} | options
    with pytest.raises(InputError, match=message):
        sample_tokens(llama, **given)


def test_a_prior_of_raster_order_draws_one_token_a_pass() -> None:
    raster = prior_of(token_order="raster")
    with pytest.raises(InputError, match="num_passes is 4; a prior of raster order draws a token in each pass, 12"):
        draw(raster, [0], num_passes=4)
    assert torch.equal(draw(raster, [0], temperature=0.0, num_passes=TOKENS), draw(raster, [0], temperature=0.0))


def test_scores_that_are_not_finite_are_named() -> None:
    damaged = prior_of()
    with torch.no_grad():
        damaged.lm_head.weight[3, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="the scores of image 0 in pass 0 are not finite; try whether all weights"):
        draw(damaged, [0, 1], num_passes=3)


def test_a_model_that_is_called_draws_the_same() -> None:
    plain, hooked = prior_of(), prior_of()
    hooked.lm_head.register_forward_hook(lambda module, inputs, output: output)
    options: dict[str, Any] = {"num_passes": 4, "guidance_scale": 2.0, "temperature": 0.0}
    assert torch.equal(draw(hooked, range(CLASSES), **options), draw(plain, range(CLASSES), **options))
