"""Two processes with half of each batch give what one process with the whole gives."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from processes import run
from torch import Tensor, nn
from torch.utils.data import Dataset

from wvq.pipelines.training.checkpoints.state import TrainingState
from wvq.pipelines.training.run import Run
from wvq.pipelines.training.step_record import StepRecord
from wvq.pipelines.training.stopping import StopRequest
from wvq.tokenizer import CodebookUsage, InputError, WassersteinQuantizer
from wvq.tokenizer.data.batches import ShuffledBatches, training_loader, uniform_draws
from wvq.tokenizer.distributed import on_first_process
from wvq.tokenizer.metrics import ReconstructionQuality

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
    keep_checkpoints: int = 1
    turning_point = 0
    checkpoint_every: int = BATCHES


class Wrapped(nn.Module):
    """A quantizer in a module that returns tensors, the way a data-parallel model holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.quantizer = WassersteinQuantizer(
            codebook_size=K, codebook_dim=D, init_std=0.5, initialization="normal", statistics_window=3
        )

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
        quality.update(images, images + 1, batch["z"][:, :, None, None], grid, codes.detach()[grid])
        seen.append(batch["indices"])
        draws.append(uniform_draws(0, number, len(indices)))

    recorded = Run(folder / "run", Training(), accelerator)
    state = TrainingState(accelerator, model, [optimizer], StepRecord(accelerator, model, limit=1))
    recorded.save_checkpoint(1, state)
    recorded.save_checkpoint(BATCHES, state)
    expected = codes.detach().clone()
    codes.data.zero_()
    resumed = recorded.resume(state)
    window = accelerator.unwrap_model(model).quantizer.features
    mean, covariance = window.mean_and_covariance()
    return {
        "folder": str(folder),
        "codes": expected,
        "restored": codes.detach().clone(),
        "skipped": skip_two_steps(accelerator, model),
        "signal": pass_on_signal(accelerator),
        "refusal": refuse(),
        "resumed": resumed,
        "checkpoints": [path.name for path in (folder / "run" / "checkpoints").iterdir()],
        "mean": mean,
        "covariance": covariance,
        "usage": usage.compute(),
        "quality": quality.compute(),
        "indices": torch.stack(seen),
        "draws": torch.stack(draws),
    }


def skip_two_steps(accelerator: Accelerator, model: nn.Module) -> list[int]:
    """A loss, then features that are not finite on the last process alone; how many steps were skipped after each."""
    record, skipped = StepRecord(accelerator, model, limit=3), []
    bad = float("nan") if accelerator.is_last_process else 1.0
    for step in range(2):
        with record.guard(step, step):
            loss, _ = model(torch.full((4, D), bad if step == 1 else 1.0))
            record.add({"loss": loss * bad})
            record.check()
        skipped.append(record.skipped)
    return skipped


def pass_on_signal(accelerator: Accelerator) -> int:
    """The signal that every process stops for when the last alone has received it."""
    request = StopRequest(accelerator)
    assert not request.requested()
    request.signal_number = signal.SIGUSR1 if accelerator.is_last_process else 0
    assert request.requested()
    return request.signal_number


def refuse() -> str:
    """What every process says when the first refuses its input."""

    def read() -> None:
        raise InputError("no")

    try:
        on_first_process(read)
    except InputError as error:
        return str(error)
    return ""


def process(folder: Path) -> None:
    torch.save(run_process(folder), folder / f"{os.environ['RANK']}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], ...]:
    """Of one process alone, and of both of two processes."""
    folder = tmp_path_factory.mktemp("two")
    run(2, process, folder)
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


def test_a_step_that_fails_on_one_process_is_skipped_on_all(results: tuple[dict[str, Any], ...]):
    assert [result["skipped"] for result in results] == [[1, 2]] * 3


def test_a_signal_to_one_process_stops_all(results: tuple[dict[str, Any], ...]):
    assert [result["signal"] for result in results] == [signal.SIGUSR1] * 3


def test_what_the_first_process_refuses_all_refuse(results: tuple[dict[str, Any], ...]):
    assert [result["refusal"] for result in results] == ["no"] * 3


def test_processes_write_and_load_one_checkpoint(results: tuple[dict[str, Any], ...]):
    for result in results:
        assert result["checkpoints"] == [f"step-{BATCHES:08d}"]
        assert result["resumed"] == BATCHES
        assert torch.equal(result["restored"], result["codes"])


def test_one_process_goes_on_where_two_stopped(results: tuple[dict[str, Any], ...], capsys: pytest.CaptureFixture[str]):
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(model := Wrapped(), torch.optim.SGD(model.parameters(), lr=1.0))
    state = TrainingState(accelerator, model, [optimizer], StepRecord(accelerator, model, limit=1))
    assert Run(Path(results[1]["folder"]) / "run", Training(), accelerator).resume(state) == BATCHES
    assert torch.equal(model.quantizer.weight, results[1]["codes"])
    assert "saved by 2 processes, resumed by 1" in capsys.readouterr().err


def test_statistics_are_those_of_the_last_batches_of_all_processes(results: tuple[dict[str, Any], ...]):
    vectors = Features().vectors[results[0]["indices"][-3:].flatten()].double()
    for result in results:
        torch.testing.assert_close(result["mean"], vectors.mean(dim=0))
        torch.testing.assert_close(result["covariance"], vectors.T.cov())
