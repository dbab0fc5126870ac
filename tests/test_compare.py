"""`wvq compare` on real images at toy size: the rows, what is done again and what is not, one process and several."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from wvq.eval.clock import Clock
from wvq.eval.compare import Comparison, Method, compare
from wvq.eval.parallel import run_parallel
from wvq.pipelines.sample import SamplingOptions
from wvq.prior.model import PriorSize
from wvq.prior.train import PriorTraining
from wvq.tokenizer import InputError, TokenizerConfig
from wvq.tokenizer.data import DataConfig
from wvq.tokenizer.train import TokenizerTraining

ROW = {
    "quantizer", "seed", "utilization", "perplexity", "quantization_error", "relative_quantization_error", "psnr",
    "ssim", "reconstruction_frechet_distance", "generation_frechet_distance", "extractor", "num_reference",
    "num_generated", "seconds",
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in the same order here and in the processes of `jobs`."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def toy_comparison(folder: Path, images: Path) -> Comparison:
    data = DataConfig(source=str(images), channels=1)
    model = TokenizerConfig(channels=1, base_channels=8, channel_multipliers=(1, 1, 1), num_blocks=1,
                            latent_channels=8, codebook_size=32, codebook_dim=4)  # fmt: skip
    return Comparison(
        output_dir=str(folder),
        data=data,
        methods={"plain": Method("vanilla", {"commitment_weight": 0.1}), "matched": Method("wasserstein")},
        tokenizer=TokenizerTraining(data=data, model=model, steps=4, warmup_steps=1, batch_size=16, evaluate_every=2),
        prior=PriorTraining(model=PriorSize(hidden_size=16, num_layers=1, num_heads=2), steps=3, warmup_steps=1,
                            batch_size=16, sample_every=0),
        sampling=SamplingOptions(guidance_scale=1.5, batch_size=7),
        num_generated=20,
        extractor="efficientnet-lite0",
    )  # fmt: skip


def untimed(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_rows_report_and_second_call(fashion_folder: Path, tmp_path: Path) -> None:
    config = toy_comparison(tmp_path / "one", fashion_folder)
    report = compare(config)
    comparison = json.loads((tmp_path / "one" / "comparison.json").read_text())
    assert [(row["quantizer"], row["seed"]) for row in comparison["rows"]] == [("plain", 0), ("matched", 0)]
    for row in comparison["rows"]:
        assert set(row) == ROW
        assert set(row["seconds"]) == {"tokenizer", "tokens", "prior", "sampling", "evaluation"}
        assert (row["num_reference"], row["num_generated"], row["extractor"]) == (100, 20, "efficientnet-lite0")
        scores = json.loads((tmp_path / "one" / f"{row['quantizer']}-0" / "scores.json").read_text())
        assert sum(scores["code_histogram"]) == 100 * 49
        used = sum(count > 0 for count in scores["code_histogram"])
        assert row["utilization"] == used / 32
        assert row["psnr"] == scores["reconstruction"]["psnr"]
        assert row["generation_frechet_distance"] == scores["generation"]["generation_frechet_distance"]
    assert comparison["protocol"]["score"] == "rFD[efficientnet-lite0]"
    assert comparison["protocol"]["methods"]["plain"]["quantizer"] == "vanilla"
    assert "matched" in report.read_text()

    models = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*.safetensors")}
    assert compare(config) == report
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*.safetensors")} == models
    assert json.loads((tmp_path / "one" / "comparison.json").read_text()) == comparison
    with pytest.raises(InputError, match="holds a comparison with num_generated = 20, this one has 30"):
        compare(dataclasses.replace(config, num_generated=30))

    # Both start from the same weights, and several processes train what one does.
    other = dataclasses.replace(config, output_dir=str(tmp_path / "two"), jobs=2)
    compare(other)
    again = json.loads((tmp_path / "two" / "comparison.json").read_text())
    assert untimed(again["rows"]) == untimed(comparison["rows"])
    assert again["protocol"] == comparison["protocol"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {}}, "methods are"),
        ({"methods": {"../up": Method("vanilla")}}, "names a folder"),
        ({"methods": {"a": Method("vanila")}}, "did you mean 'vanilla'"),
        ({"methods": {"a": Method("vanilla", {"gamma": 1})}}, "no option 'gamma'"),
        ({"seeds": ()}, "seeds"),
        ({"jobs": 0}, "jobs is 0"),
    ],
)
def test_bad_comparison(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(toy_comparison(tmp_path, tmp_path), **changes)


def test_failed_call_stops_the_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_parallel(fail_or_wait, [(True,), (False,)], jobs=2)
    assert stopped.value.code == 2
    assert "the first one fails" in capfd.readouterr().err


def fail_or_wait(fail: bool) -> None:
    if fail:
        raise InputError("the first one fails")
    time.sleep(300)


def test_killed_parent_leaves_no_child(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys, time, pathlib\n"
        "from wvq.eval.parallel import run_parallel\n"
        "def work(folder):\n"
        "    pathlib.Path(folder, str(os.getpid())).touch()\n"
        "    time.sleep(300)\n"
        "if __name__ == '__main__':\n"
        "    run_parallel(work, [(sys.argv[1],), (sys.argv[1],)], jobs=2)\n"
    )
    pids = tmp_path / "pids"
    pids.mkdir()
    parent = subprocess.Popen([sys.executable, program, pids])
    deadline = time.monotonic() + 120
    while len(list(pids.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    children = [int(path.name) for path in pids.iterdir()]
    assert len(children) == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, children))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_clock_adds_up_over_interruptions(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "seconds.json")
    clock.add("training", 1.5)
    assert list(clock.each("sampling", iter("abc"))) == ["a", "b", "c"]
    again = Clock(tmp_path / "seconds.json")
    again.add("training", 2.0)
    assert again.seconds["training"] == 3.5
    assert 0 <= again.seconds["sampling"] < 1
    with pytest.raises(RuntimeError), again.measure("training"):
        raise RuntimeError
    assert Clock(tmp_path / "seconds.json").seconds["training"] == 3.5
