"""Twenty updates of a quantizer end with one codebook: whole, shared by two processes, and in micro-batches."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from codebooks import one_codebook
from processes import run
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from wvq.tokenizer import CodebookUsage

K, D, UPDATES, BATCH = 24, 4, 20, 48
CASES: dict[str, dict[str, Any]] = {
    "vanilla": {},
    "ema": {"decay": 0.9},
    "online": {"decay": 0.9, "init_std": 2.0},  # far apart: codes with one anchor tie, and rounding would choose
    "linear": {"init_std": 1.0},
    "wasserstein": {"statistics_window": 3},
    "mmd": {},
    "wasserstein, transport": {"alignment": "transport", "statistics_window": 3},
    "wasserstein, transport and averages": {"alignment": "transport", "decay": 0.9},
    "mmd, thinned": {"max_points": 10},
    "spherical": {"init_std": 1.0},
    "fsq": {},
    "gaussian": {"statistics_window": 3},
}
# Not among those in micro-batches: the order of vectors, of which some are drawn, is then that of the processes, and
# what Sinkhorn's iterations share out are the vectors of a micro-batch.
DRAWING = {
    f"{name}, {start}": {"initialization": start} for name in ("ema", "linear") for start in ("data", "kmeans++")
} | {
    "vanilla, data of three steps": {"initialization": "data", "initialization_steps": 3},
    "transport, data": {"initialization": "data"},
    "sinkhorn": {"init_std": 1.0},
    "vanilla, revival": {"revival": 0.9},
    "ema, revival": {"revival": 0.9},
}


class Model(nn.Module):
    """An encoder of one layer, so that features move too, and a quantizer."""

    def __init__(self, case: str):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(D, D)
        options = {"init_std": 0.3} | (CASES | DRAWING)[case]
        self.quantizer = one_codebook(case.split(",")[0], K, D, **options)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        output = self.quantizer(self.encoder(x))
        return output.loss + (output.quantized - x).square().mean(), output.indices


def train(case: str, micro_batches: int = 1) -> dict[str, Tensor]:
    """State after the updates; this process sees its share of each batch, in so many micro-batches."""
    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    rank = torch.distributed.get_rank() if world > 1 else 0
    module = Model(case)
    module.quantizer.accumulation_steps = micro_batches
    model = DistributedDataParallel(module) if world > 1 else module
    optimizer = torch.optim.SGD(
        [p for p in module.parameters() if p.requires_grad], lr=0.05
    )  # small: rounding must not grow
    generator = torch.Generator().manual_seed(1)
    usage = CodebookUsage(K)
    for _ in range(UPDATES):
        batch = torch.randn(BATCH, D, generator=generator) * 2 + 3
        # Each micro-batch is shared out over the processes, as the loops do it.
        for number, micro_batch in enumerate(batch.chunk(micro_batches)):
            last = number == micro_batches - 1
            waiting = model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext()
            with waiting:
                loss, indices = model(micro_batch.chunk(world)[rank])
                (loss / micro_batches).backward()
            usage.update(indices)
        optimizer.step()
        optimizer.zero_grad()
    counts = usage.compute()
    return {name: value.detach().clone() for name, value in module.state_dict().items()} | {
        "codebook": module.quantizer.codebook.detach(),
        **counts,
    }


def process(folder: Path) -> None:
    torch.distributed.init_process_group("gloo")
    results = {case: train(case) for case in CASES | DRAWING}
    results |= {f"{case} in micro-batches": train(case, micro_batches=2) for case in CASES}
    torch.save(results, folder / f"{os.environ['RANK']}.pt")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """Results of each of two processes."""
    folder = tmp_path_factory.mktemp("two")
    run(2, process, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("case", CASES | DRAWING)
def test_two_processes_equal_one(two: list[dict[str, dict[str, Tensor]]], case: str):
    expected = train(case)
    for other in two:
        assert_equal(other[case], expected)


# Not "mmd, thinned": vectors of processes follow each other in another order, so that other points are compared.
@pytest.mark.parametrize("case", [case for case in CASES if case != "mmd, thinned"])
def test_two_processes_in_micro_batches_equal_one_in_micro_batches(two: list[dict[str, dict[str, Tensor]]], case: str):
    expected = train(case, micro_batches=2)
    for other in two:
        assert_equal(other[f"{case} in micro-batches"], expected)


@pytest.mark.parametrize("micro_batches", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_micro_batches_equal_the_whole(case: str, micro_batches: int):
    """Codes and statistics move once per optimizer step, with all its vectors."""
    assert_equal(train(case, micro_batches), train(case))


@pytest.mark.parametrize("case", CASES)
def test_the_codebook_moves(case: str):
    trained = train(case)["codebook"]
    assert not torch.equal(trained, Model(case).quantizer.codebook)
    assert trained.isfinite().all()
