"""Nearest-code search against brute force in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from wvq.tokenizer import nearest_codes
from wvq.tokenizer.quantizers import nearest


def draw(num_vectors: int, num_codes: int, dim: int, offset: float = 0.0, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Vectors (N, D) around offset + shift and codes (K, D) around offset, float32."""
    generator = torch.Generator().manual_seed(num_vectors + num_codes + dim)
    vectors = torch.randn(num_vectors, dim, generator=generator) + offset + shift
    return vectors, torch.randn(num_codes, dim, generator=generator) + offset


def assert_nearest(indices: Tensor, vectors: Tensor, codes: Tensor) -> None:
    """Each choice is as near as the nearest up to float32 rounding, and is the nearest where that leaves no doubt."""
    assert indices.dtype == torch.int64
    assert indices.shape == vectors.shape[:1]
    squares = torch.cdist(vectors.double(), codes.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    two = squares.topk(2, dim=1, largest=False)
    spread = codes.double() - codes.double().mean(dim=0)
    farthest = (vectors.double() - codes.double().mean(dim=0)).norm(dim=1) + spread.norm(dim=1).max()
    rounding = 4 * torch.finfo(torch.float32).eps * farthest.square()
    clear = two.values[:, 1] - two.values[:, 0] > rounding
    assert clear.double().mean() > 0.95
    assert torch.equal(indices[clear], two.indices[clear, 0])
    assert (squares.gather(1, indices[:, None])[:, 0] - two.values[:, 0] <= rounding).all()


@pytest.mark.parametrize(("num_codes", "dim"), [(2, 1), (63, 1), (2, 8), (63, 2), (1024, 2), (1024, 8), (777, 32)])
@pytest.mark.parametrize("num_vectors", [1, 2, 1000])
def test_equals_brute_force(num_vectors: int, num_codes: int, dim: int):
    vectors, codes = draw(num_vectors, num_codes, dim)
    assert_nearest(nearest_codes(vectors, codes), vectors, codes)


@pytest.mark.parametrize("offset", [-300.0, 1e4])
def test_common_offset_costs_no_digits(offset: float):
    vectors, codes = draw(1000, 512, 8, offset=offset)
    assert_nearest(nearest_codes(vectors, codes), vectors, codes)


@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("shift", [0.0, 1.0, 8.0])
def test_blocks_of_codes_end_early_only_where_no_other_can_be_nearer(scale: float, shift: float):
    vectors, codes = draw(700, 3 * nearest._CPU_COLUMNS + 5, 6, shift=shift)
    indices = nearest._search_products(vectors, scale * codes)
    squares = torch.cdist(vectors.double(), scale * codes.double()).square()
    chosen = squares.gather(1, indices[:, None]).squeeze(1)
    torch.testing.assert_close(chosen, squares.amin(dim=1), rtol=1e-6, atol=1e-9)


def test_codes_far_from_all_vectors():
    vectors, codes = draw(1000, 512, 8, shift=8.0)
    assert_nearest(nearest_codes(vectors, codes), vectors, codes)


def test_tiny_and_large_scales_give_the_same_indices():
    vectors, codes = draw(1000, 256, 8)
    expected = nearest_codes(vectors, codes)
    for scale in (2.0**-40, 2.0**40):
        assert torch.equal(nearest_codes(vectors * scale, codes * scale), expected)


def test_no_vectors():
    assert nearest_codes(torch.empty(0, 8), torch.randn(4, 8)).shape == (0,)


@pytest.mark.parametrize("num_vectors", [15, 16, 17, 31, 32, 33])
def test_block_boundaries(monkeypatch: pytest.MonkeyPatch, num_vectors: int):
    monkeypatch.setattr(nearest, "_BLOCK_ENTRIES", 16 * 50)
    vectors, codes = draw(num_vectors, 50, 4)
    assert_nearest(nearest_codes(vectors, codes), vectors, codes)


def test_more_codes_than_a_block_holds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nearest, "_BLOCK_ENTRIES", 10)
    vectors, codes = draw(20, 50, 4)
    assert_nearest(nearest_codes(vectors, codes), vectors, codes)


def test_codes_are_their_own_nearest():
    _, codes = draw(1, 2000, 8)
    assert torch.equal(nearest_codes(codes, codes), torch.arange(2000))


def test_is_deterministic():
    vectors, codes = draw(5000, 777, 8)
    assert torch.equal(nearest_codes(vectors, codes), nearest_codes(vectors, codes))


def test_is_exact_under_autocast():
    vectors, codes = draw(2000, 2048, 8)
    with torch.autocast("cpu", torch.bfloat16):
        indices = nearest_codes(vectors, codes)
    assert torch.equal(indices, nearest_codes(vectors, codes))


def test_takes_half_precision_and_strided_inputs():
    vectors, codes = draw(64, 32, 8)
    assert torch.equal(
        nearest_codes(vectors.bfloat16(), codes), nearest_codes(vectors.bfloat16().float().T.contiguous().T, codes)
    )


def test_gives_no_gradient():
    vectors, codes = draw(4, 8, 2)
    assert not nearest_codes(vectors.requires_grad_(), codes.requires_grad_()).requires_grad


# Exactness where float32 products are not enough, and the two ways of searching


def exact(vectors: Tensor, codes: Tensor) -> Tensor:
    """Distances (N, K) in float64, as they are defined."""
    return torch.cdist(vectors.double(), codes.double(), compute_mode="donot_use_mm_for_euclid_dist")


ADVERSARIAL = {
    "duplicates": lambda codes: codes[torch.arange(len(codes)) // 3],
    "all equal": lambda codes: codes[:1].expand_as(codes).clone(),
    "all zero": torch.zeros_like,
    "one zero": lambda codes: torch.cat([codes[:-1], torch.zeros_like(codes[-1:])]),
    "huge norms": lambda codes: codes * 1e4,
    "some huge norms": lambda codes: torch.cat([codes[: len(codes) // 2], codes[len(codes) // 2 :] * 1e4]),
    "tiny spread": lambda codes: codes * 1e-6,
    "tiny spread far away": lambda codes: codes * 1e-6 + 3,
    "one code": lambda codes: codes[:1],
}


@pytest.mark.parametrize("search", [nearest._search_products, nearest._search_tree, nearest_codes])
@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize("dim", [1, 8, 13])
def test_adversarial_codebooks(search: Callable[[Tensor, Tensor], Tensor], name: str, dim: int):
    vectors, codes = draw(531, 997, dim)
    codes = ADVERSARIAL[name](codes)
    vectors = torch.cat([vectors, codes[:100], vectors[:50] * 1e4])
    distances = exact(vectors, codes)
    chosen = distances.gather(1, search(vectors, codes)[:, None])[:, 0]
    torch.testing.assert_close(chosen, distances.amin(dim=1), rtol=1e-14, atol=0)


def test_tree_and_products_agree():
    vectors, codes = draw(3000, 20_000, 8)
    assert nearest._suits_tree(vectors, codes)
    assert torch.equal(nearest_codes(vectors, codes), nearest._search_products(vectors, codes))


@pytest.mark.parametrize(
    ("num_vectors", "num_codes", "dim", "shift"), [(3000, 100, 8, 0), (3000, 20_000, 16, 0), (9, 20_000, 8, 0),
                                                   (3000, 20_000, 8, 9.0)]
)  # fmt: skip
def test_few_codes_many_dimensions_or_vectors_far_away_are_not_for_the_tree(
    num_vectors: int, num_codes: int, dim: int, shift: float
):
    assert not nearest._suits_tree(*draw(num_vectors, num_codes, dim, shift=shift))


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_setting_is_left_as_it_was(allowed: bool):
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        nearest_codes(*draw(10, 10, 4))
        assert torch.backends.cuda.matmul.allow_tf32 == allowed
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def test_codes_that_coincide_need_little_memory():
    """Every code is possible for every vector: all at once would take 2,048 * 2,048 * 64 * 8 bytes three times over."""
    vectors, codes = torch.zeros(2048, 64), torch.zeros(2048, 64)
    codes[1024:] = 1e-20  # as near to float32, and farther
    vectors[::2] = 1e-20
    peak = _peak_of(lambda: nearest_codes(vectors, codes))
    assert torch.equal(nearest_codes(vectors, codes)[:4], torch.tensor([1024, 0, 1024, 0]))
    assert peak < 2**28


def _peak_of(function: Callable[[], object]) -> int:
    """The largest single allocation in bytes, as the operations of a call report it."""
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            made = func(*args, **(kwargs or {}))
            for tensor in made if isinstance(made, list | tuple) else [made]:
                if isinstance(tensor, Tensor):
                    largest = max(largest, tensor.numel() * tensor.element_size())
            return made

    with Sizes():
        function()
    return largest


@pytest.mark.parametrize("pairs", [1, 7, 2**20])
def test_ties_are_settled_alike_in_parts_of_any_size(pairs: int, monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(40, 3, generator=generator).repeat(3, 1)
    vectors = torch.randn(200, 3, generator=generator) + 1000
    expected = nearest_codes(vectors, codes)
    monkeypatch.setattr(nearest, "_PAIRS", pairs)
    assert torch.equal(nearest_codes(vectors, codes), expected)
    assert (expected < 40).all()  # the first of equal codes
