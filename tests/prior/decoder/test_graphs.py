"""Steps that are captured as graphs: `wvq.prior.decoder.graphs`, on a GPU, and what of it can be seen without one."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from host_reads import counted_waits, note_waits
from other_device import elsewhere
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.fx.experimental.proxy_tensor import make_fx
from transformers import PreTrainedModel

from wvq.prior import PriorConfig, build_prior, sample_tokens
from wvq.prior.decoder import build_decoder, graphs, packed_linear, static
from wvq.prior.decoder.cache import PAGE_OF_A_GRAPH, StaticCache

CODES, TOKENS, LABELS = 24, PAGE_OF_A_GRAPH + 6, torch.tensor([0, 1, 2])
OPTIONS: dict[str, Any] = {"guidance_scale": 2.0, "top_k": 9, "top_p": 0.9, "min_p": 0.01}


@pytest.fixture(params=["llama", "gpt2"])
def prior(request: pytest.FixtureRequest) -> PreTrainedModel:
    return prior_of(request.param)


def prior_of(architecture: Any, **options: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    size: Any = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, **options}
    counts = {"num_codes": CODES, "num_tokens": TOKENS, "num_classes": 3}
    model = build_prior(PriorConfig(architecture=architecture, **counts, **size)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 6 if parameter.ndim == 2 else 1
    return model


def free_order(architecture: str) -> Any:
    return prior_of(architecture, token_order="random")


def draw(model: PreTrainedModel, labels: Tensor = LABELS, **options: Any) -> Tensor:
    generators = [torch.Generator().manual_seed(number) for number in range(len(labels))]
    return sample_tokens(model, labels, TOKENS, CODES, generator=generators, **OPTIONS | options)


def recorded(function: Callable[[], Tensor], pool: Any) -> tuple[Callable[[], Any], Tensor, Any]:
    """As a CUDA graph does: operations on fixed memory, with the numbers that the host had when they were recorded."""
    result = function().clone()
    again = make_fx(function)()
    return lambda: result.copy_(again()), result, pool


@contextlib.contextmanager
def captured(capture: Any = recorded) -> Iterator[None]:
    """Steps are captured on the CPU as well, where matrices are plain ones."""
    with (
        patch.object(static, "captures", lambda device: True),
        patch.object(graphs, "captured", capture),
        patch.object(packed_linear.torch.backends.mkldnn, "is_available", lambda: False),
    ):
        yield


def test_recorded_steps_draw_the_same_tokens(prior):
    expected = draw(prior)
    with captured():
        assert torch.equal(draw(prior, block_size=2), expected)


def test_caches_and_graphs_are_used_again_in_the_next_call(prior):
    captures: list[Any] = []

    def counted(function: Any, pool: Any) -> Any:
        captures.append(pool)
        return recorded(function, pool)

    with captured(counted):
        first = draw(prior, block_size=2)
        assert len(captures) == 2 * 2  # two blocks, of two pages each
        assert torch.equal(draw(prior, block_size=2), first)
        assert torch.equal(draw(prior, LABELS[:2], block_size=2), first[:2])  # one block of that size
        assert len(captures) == 2 * 2
        draw(prior, block_size=3)
        assert len(captures) == 3 * 2


def test_passes_of_a_free_order_make_no_graphs(prior):
    captures: list[Any] = []
    free = free_order(prior.config.model_type)
    expected = draw(free, num_passes=5)
    with captured(lambda function, pool: captures.append(pool)):
        assert torch.equal(draw(free, num_passes=5), expected)
    assert not captures


def test_a_step_is_compiled_once_for_each_page(prior):
    with captured(), torch.no_grad():
        decoder: Any = build_decoder(prior, CODES, 3)
        cache = StaticCache(prior.config, 3, TOKENS, torch.empty(0), captured=True)
        counter = CompileCounter()
        step = torch.compile(decoder.step, backend=counter, fullgraph=True, dynamic=False)
        tokens = torch.randint(CODES, (3, TOKENS), generator=torch.Generator().manual_seed(0))
        features = [step(tokens[:, i : i + 1], cache.reserve(1), cache) for i in range(TOKENS)]
        assert counter.frame_count == 2
        expected = prior(tokens, use_cache=False).logits[:, :, :CODES]
    logits = decoder.logits(torch.cat(features, dim=1))
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * expected.abs().max())


def test_the_host_waits_for_nothing_between_the_first_token_and_the_last(prior):
    positions: list[int] = []
    with elsewhere() as device, counted_waits() as waits:

        def called(function: Callable[[], Tensor], pool: Any) -> Any:
            result = function().clone()
            return lambda: result.copy_(function()), result, pool

        prior.to(device)
        with captured(called):
            tokens = draw(prior, on_token=lambda position, so_far: positions.append(len(waits)))
        tokens = tokens.cpu()
    assert len(positions) == TOKENS
    assert positions[-1] == positions[0], waits[positions[0] : positions[-1]]
    assert torch.equal(tokens, draw(prior.to("cpu")))


@pytest.mark.parametrize("float64", [True, False])
def test_the_host_waits_for_nothing_between_the_first_pass_and_the_last(prior, float64):
    passes: list[int] = []
    free = free_order(prior.config.model_type)
    expected = draw(free, num_passes=6)
    with elsewhere(float64=float64) as device, counted_waits() as waits:
        tokens = draw(free.to(device), num_passes=6, on_token=lambda known, so_far: passes.append(len(waits))).cpu()
    assert torch.equal(tokens, expected)
    assert len(passes) == 6
    if float64:  # else draws lie on the CPU, and each is waited for
        assert passes[-1] == passes[0], waits[passes[0] : passes[-1]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU was found")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_gpu_is_not_waited_for_between_the_first_token_and_the_last(prior, dtype):
    on_cpu = draw(prior)
    prior.to("cuda")

    def watch(position: int, so_far: Tensor) -> None:
        note_waits("error" if position < TOKENS - 1 else "default")

    try:
        first = draw(prior, on_token=watch, dtype=dtype)
    finally:
        note_waits("default")
    assert torch.equal(draw(prior, dtype=dtype), first)  # by the graphs of the first call
    called = sample_without_graphs(prior, dtype)
    if dtype is None:
        assert torch.equal(first.cpu(), on_cpu)
        assert torch.equal(called, first)
    else:
        assert (called == first).double().mean() > 0.5


def sample_without_graphs(model: PreTrainedModel, dtype: Any) -> Tensor:
    with patch.object(static, "captures", lambda device: False):
        return draw(model.train(), dtype=dtype)  # of which nothing is kept
