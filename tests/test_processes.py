"""Two processes with half of each batch give what one process with the whole gives."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.utils.data import Dataset

from wvq.tokenizer import CodebookUsage, WassersteinQuantizer
from wvq.tokenizer.batches import ShuffledBatches, training_loader, uniform_draws
from wvq.tokenizer.checkpoints import Run
from wvq.tokenizer.quality import ReconstructionQuality

K, D, BATCHES = 32, 4, 6


class Features(Dataset):
    """Forty feature vectors (D,), far from where the codes start."""

    def __init__(self) -> None:
        self.vectors = torch.randn(40, D, generator=torch.Generator().manual_seed(0)) * 2 + 3

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return {"z": self.vectors[indices], "indices": torch.tensor(indices)}


@dataclass(frozen=True)
class Training:
    steps: int = BATCHES


class Wrapped(nn.Module):
    """A quantizer in a module that returns tensors, the way a data-parallel model holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.quantizer = WassersteinQuantizer(K, D, init_std=0.5, statistics_window=3)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        output = self.quantizer(z)
        return output.loss, output.indices


def run_process(folder: Path) -> dict[str, Any]:
    """A short training of a codebook, its scores and its checkpoint: everything a process can see at the end."""
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(split_batches=True))
    torch.manual_seed(0)
    model = Wrapped()
    codes = model.quantizer.weight
    model, optimizer = accelerator.prepare(model, torch.optim.SGD([codes], lr=1.0))
    batches = ShuffledBatches(len(Features()), batch_size=10, first=0, last=BATCHES, seed=0)
    usage, quality = CodebookUsage(K), ReconstructionQuality(K, D)
    seen, draws = [], []
    for number, batch in enumerate(accelerator.prepare(training_loader(Features(), batches))):
        loss, indices = model(batch["z"])
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        usage.update(indices)
        images = batch["indices"].to(torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8)
        grid = indices[:, None, None]
        quality.update(images, images + 1, batch["z"][:, :, None, None], grid, codes.detach())
        seen.append(batch["indices"])
        draws.append(uniform_draws(0, number, len(indices), accelerator))

    run = Run(folder / "run", Training(), accelerator)
    run.save_checkpoint(1, keep=1)
    run.save_checkpoint(BATCHES, keep=1)
    expected = codes.detach().clone()
    codes.data.zero_()
    resumed = run.resume()
    window = accelerator.unwrap_model(model).quantizer.features
    mean, covariance = window.mean_and_covariance()
    return {
        "codes": expected,
        "restored": codes.detach(),
        "resumed": resumed,
        "checkpoints": [path.name for path in (folder / "run" / "checkpoints").iterdir()],
        "mean": mean,
        "covariance": covariance,
        "usage": usage.compute(),
        "quality": quality.compute(),
        "indices": torch.stack(seen),
        "draws": torch.stack(draws),
    }


def process(rank: int, folder: Path, port: int) -> None:
    world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in world.items()})
    torch.set_num_threads(1)
    torch.save(run_process(folder), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], ...]:
    """Of one process alone, and of both of two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("two")
    spawn(process, (folder, port), nprocs=2)
    return (
        run_process(tmp_path_factory.mktemp("one")),
        *(torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)),
    )


@pytest.mark.parametrize("name", ["codes", "mean", "covariance", "usage", "quality"])
def test_both_processes_have_what_one_has(results: tuple[dict[str, Any], ...], name: str):
    one, *both = results
    for other in both:
        torch.testing.assert_close(other[name], one[name])


@pytest.mark.parametrize("name", ["indices", "draws"])
def test_processes_share_out_each_batch(results: tuple[dict[str, Any], ...], name: str):
    one, *both = results
    assert torch.equal(torch.cat([other[name] for other in both], dim=1), one[name])


def test_processes_write_and_load_one_checkpoint(results: tuple[dict[str, Any], ...]):
    for result in results:
        assert result["checkpoints"] == [f"step-{BATCHES:08d}"]
        assert result["resumed"] == BATCHES
        assert torch.equal(result["restored"], result["codes"])


def test_statistics_are_those_of_the_last_batches_of_all_processes(results: tuple[dict[str, Any], ...]):
    vectors = Features().vectors[results[0]["indices"][-3:].flatten()].double()
    for result in results:
        torch.testing.assert_close(result["mean"], vectors.mean(dim=0))
        torch.testing.assert_close(result["covariance"], vectors.T.cov())
