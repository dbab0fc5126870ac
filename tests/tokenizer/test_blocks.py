"""Rows computed in blocks of one size: `wvq.tokenizer.blocks`."""

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from wvq.tokenizer.blocks import in_blocks, padded_blocks

CPU = torch.device("cpu")


@given(count=st.integers(1, 40), block_size=st.integers(1, 20))
def test_blocks_are_all_rows_in_order_and_of_one_size(count, block_size):
    blocks = padded_blocks(count, block_size, CPU)
    assert {len(block) for block in blocks} == {block_size}
    assert (len(blocks) - 1) * block_size < count
    rows = torch.cat(blocks)
    assert rows[:count].tolist() == list(range(count))
    assert (rows[count:] == count - 1).all()


def test_a_convolution_of_an_image_is_the_same_to_the_last_bit_in_any_batch():
    torch.manual_seed(0)
    images, weight = torch.randn(64, 32, 14, 14), torch.randn(48, 32, 3, 3)

    def convolve(rows: torch.Tensor) -> torch.Tensor:
        return in_blocks(lambda block: F.conv2d(block, weight, padding=1), rows, 16)

    together = convolve(images)
    torch.testing.assert_close(together, F.conv2d(images, weight, padding=1))
    for size in (1, 7):
        assert torch.equal(torch.cat([convolve(part) for part in images.split(size)]), together)
