"""The figures of "1,000 GPUs and a billion images, on paper" in docs/scale.md: `python docs/scale_figures.py`.

Each line that is printed stands in the page as it is, which tests/docs/test_scale_figures.py checks. Measured figures
are read from eval/results, sizes of models are counted on what is built, the rest is assumed, here and nowhere else.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from wvq.pipelines.train_prior import PriorTraining
from wvq.pipelines.training.muon import build_optimizers
from wvq.prior import PriorConfig, build_prior
from wvq.prior.loss import TokenLoss
from wvq.tokenizer import TokenizerConfig, VQTokenizer
from wvq.tokenizer.token_shards import MOST_ROWS

RESULTS = Path(__file__).parents[1] / "eval" / "results"

GPUS, GPUS_A_MACHINE, CORES_A_GPU = 1_000, 8, 16
IMAGES, IMAGE_BYTES, TOKENS, CLASSES = 10**9, 110_000, 256, 1_000
K, D = 16_384, 8
SHARD_IMAGES, CHUNK_IMAGES = 10_000, 50_000  # of a stream and of tokens; shuffled among each other
NETWORK = 50e9  # bytes a second of a GPU to other machines: 400 Gbit/s
BATCH = 16  # images of a GPU in a step of the 3B prior
SPEED = 0.4 * 989.5e12  # floating-point operations a second of a GPU: two fifths of an H100's peak in bfloat16
RENEWAL_SECONDS = 15  # between signs of life of a lease


def measured(name: str) -> float:
    return json.loads((RESULTS / "scale.json").read_text())[name]["value"]


def decoded_images() -> float:
    """JPEGs of 500x375 that one core decodes a second from a tar stream."""
    rows = json.loads((RESULTS / "benchmark-data.json").read_text())["rows"]
    (rate,) = [
        row["images_per_second"]
        for row in rows
        if (row["source"], row["loader"], row["num_workers"]) == ("tar stream", "wvq", 0)
    ]
    return rate


def sizes(size: Any) -> tuple[int, int, int]:
    """Parameters of a prior, those of matrices that Muon moves, and tensors of weights and moments."""
    with torch.device("meta"):
        prior = build_prior(PriorConfig(size=size, num_codes=K, num_tokens=TOKENS, num_classes=CLASSES))
        model = TokenLoss(prior, K)
        _, muon = build_optimizers(model, PriorTraining())
    tensors, matrices = list(model.parameters()), [p for group in muon.param_groups for p in group["params"]]
    states = 3 * len(tensors) - len(matrices)  # AdamW has two moments, Muon one
    return sum(p.numel() for p in tensors), sum(p.numel() for p in matrices), states


def tokenizer_parameters() -> int:
    """Of a tokenizer that makes 256 tokens of an image of 256x256."""
    with torch.device("meta"):
        tokenizer = VQTokenizer(TokenizerConfig(image_size=256, channel_multipliers=(1, 1, 2, 2, 4)))
    assert tokenizer.config.num_tokens == TOKENS
    return sum(p.numel() for p in tokenizer.parameters())


def in_bytes(count: float) -> str:
    """Three digits and a unit."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{float(f'{count / size:.3g}'):g} {unit}"
    return f"{count:g} B"


def millions(count: float) -> str:
    return f"{count / 1e6:,.0f} M" if count >= 1e8 else f"{count / 1e6:.3g} M"


def traffic(large: tuple[int, int, int], middle: tuple[int, int, int]) -> Iterator[str]:
    """Rows: what a process gives to collective calls in a step."""
    tokenizer, (p, m, _), l_size = tokenizer_parameters(), large, middle[0]
    vectors = 64 * TOKENS
    rows = [
        ("Wasserstein statistics, either alignment", "8 (1 + D + D²)", "D alone", in_bytes(8 * (1 + D + D * D))),
        ("EMA: counts and sums of the codes", "4 K (1 + D)", "K", in_bytes(4 * K * (1 + D))),
        ("online: counts, and nearest vectors of dead codes", "4 K (3 + D) at most", "K", in_bytes(4 * K * (3 + D))),
        ("MMD: the features of 64 images", "4 D a vector", "batch", in_bytes(4 * D * vectors)),
        (f"gradients, tokenizer of {millions(tokenizer)} (DDP)", "4 P", "model", in_bytes(4 * tokenizer)),
        (f"gradients, prior L of {millions(l_size)} (DDP)", "4 P", "model", in_bytes(4 * l_size)),
        (f"weights twice and gradients, prior 3B of {millions(p)} (FSDP2, bfloat16)", "8 P", "model", in_bytes(8 * p)),
        ("the same, but within a machine (HSDP)", "8 P", "model", in_bytes(8 * p)),
        ("gradients of its shard between machines (HSDP)", "4 P / 8", "model", in_bytes(4 * p / GPUS_A_MACHINE)),
        (f"Muon's whole matrices, prior 3B, {millions(m)} in layers", "2 M", "model", in_bytes(2 * m)),
    ]
    yield from ("| " + " | ".join(row) + " |" for row in rows)
    yield f"its statistics are a {4 * tokenizer / (8 * (1 + D + D * D)) / 1e3:.0f},000th of the tokenizer's gradients"
    yield f"{in_bytes(4 * D * vectors * GPUS)} arrive"


def training_state(priors: dict[str, tuple[int, int, int]]) -> Iterator[str]:
    """Rows: bytes of training state on a GPU with Muon, and of a checkpoint."""
    for name, (p, m, _) in priors.items():
        state, saved = 4 * (2 * p + m + 2 * (p - m)), 4 * (p + m + 2 * (p - m))
        cells = [name, millions(p), *map(in_bytes, (state, state / GPUS_A_MACHINE, state / GPUS, saved, saved / GPUS))]
        yield "| " + " | ".join(cells) + " |"
    yield f"random numbers add {in_bytes(GPUS * measured('random_state_bytes'))}"


def seconds_of_a_step(large: tuple[int, int, int]) -> Iterator[str]:
    """Computing beside sending, of the 3B prior."""
    p, _, states = large
    computing = 6 * p * BATCH * TOKENS / SPEED
    yield f"computes for {computing:.2f} s"
    yield f"FSDP2 over all machines sends for {8 * p / NETWORK:.2f} s"
    # An all-reduce sends its bytes twice.
    yield f"HSDP for {2 * 4 * p / GPUS_A_MACHINE / NETWORK:.2f} s"
    yield f"{states} tensors of weights and moments in 1,000 shards are {states * GPUS:,} entries"
    yield f"in 8 they are {states * GPUS_A_MACHINE:,}"


def before_the_first_step() -> Iterator[str]:
    """What a list of single files costs every process."""
    listed = 32 + 8 + 8 + measured("path_bytes")
    yield f"{in_bytes(IMAGES * IMAGE_BYTES)}, a thousand times over"
    yield f"{in_bytes(IMAGES * listed)}, the set that looks for copies across splits another"
    yield f"another {in_bytes(IMAGES * measured('known_copy_bytes'))}"
    yield f"{in_bytes(8 * IMAGES)} and {IMAGES * measured('order_seconds'):.0f} s"
    yield f"{IMAGES * measured('header_seconds') / GPUS:.0f} s for a billion on 1,000 processes"
    yield f"{in_bytes(8 * 16 * SHARD_IMAGES)} for the order of {16 * SHARD_IMAGES:,} images"


def tokens_and_leases() -> Iterator[str]:
    """Encoding by leases, as quickly as images can be decoded."""
    cores = GPUS * CORES_A_GPU
    seconds, shards = IMAGES / (cores * decoded_images()), IMAGES // SHARD_IMAGES
    yield f"10⁹ / ({cores:,} x {decoded_images():.0f}) = {seconds:.0f} s"
    yield f"{in_bytes(4 * TOKENS * IMAGES)} of tokens in {shards:,} shards"
    yield f"{GPUS / RENEWAL_SECONDS:.0f} signs of life a second"
    yield f"2 x 1,000 x {shards:,} = {2 * GPUS * shards:.0e} looks".replace("e+08", "·10⁸")
    yield f"{2 * GPUS * shards / seconds / 1e6:.1f} million a second"
    yield f"shards of {MOST_ROWS:,} images ({in_bytes(4 * TOKENS * MOST_ROWS)}) half of it"


def lines() -> Iterator[str]:
    """All that is printed."""
    priors: dict[str, Any] = {name: sizes(name) for name in ("B", "L", "3B")}
    yield from traffic(priors["3B"], priors["L"])
    yield from training_state(priors)
    yield from seconds_of_a_step(priors["3B"])
    yield from before_the_first_step()
    yield from tokens_and_leases()


if __name__ == "__main__":
    print("\n".join(lines()))
