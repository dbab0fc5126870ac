"""How many bytes a quantizer gives to collective calls in a training step; docs/scale.md relies on them."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from processes import run

from wvq.tokenizer import build_quantizer
from wvq.tokenizer.storage.atomic import write_json
from wvq.tokenizer.storage.untrusted import read_json

K, D = 64, 8
BATCHES = (256, 512)  # vectors of a process
FINITE = 4  # one int32: whether the features of all processes are finite
BYTES: dict[str, tuple[int, ...]] = {
    "vanilla": (FINITE, FINITE),
    "linear": (FINITE, FINITE),
    "ema": (4 * K * (1 + D) + FINITE,) * 2,  # count and sum of each code
    "wasserstein": (8 * (1 + D + D * D) + FINITE,) * 2,  # count, sum and outer product
    "mmd": (8 + 4 * BATCHES[0] * D + FINITE, 8 + 4 * BATCHES[1] * D + FINITE),  # the features themselves
}


def count(file: Path) -> None:
    """The bytes that this process gives to collective calls, by quantizer and batch."""
    dist.init_process_group("gloo")
    sent: list[int] = []

    def counted(call: Any, place: int) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            sent.append(arguments[place].nbytes)
            return call(*arguments, **options)

        return wrapped

    dist.all_reduce, dist.all_gather = counted(dist.all_reduce, 0), counted(dist.all_gather, 1)
    found: dict[str, list[int]] = {}
    for name in BYTES:
        quantizer = build_quantizer(
            name, codebook_size=K, codebook_dim=D, init_std=0.5, initialization="normal"
        ).train()
        found[name] = []
        for batch in BATCHES:
            sent.clear()
            quantizer(torch.randn(batch, D))
            found[name].append(sum(sent))
    if dist.get_rank() == 0:
        write_json(file, found)


def test_only_mmd_sends_more_for_a_larger_batch(tmp_path: Path) -> None:
    run(2, count, tmp_path / "bytes.json")
    assert read_json(tmp_path / "bytes.json") == {name: list(expected) for name, expected in BYTES.items()}
