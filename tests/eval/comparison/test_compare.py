"""`wvq compare` on real images at toy size: the rows, what is done again and what is not, one process and several,
a killed one and an undisturbed one."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from model_cards import assert_card_has_the_reports_figures
from scipy.stats import ttest_rel
from toy_comparisons import toy_comparison

from wvq.eval.comparison.budget import Budget
from wvq.eval.comparison.compare import Comparison, Method, claim_folder, compare
from wvq.eval.comparison.parallel import run_parallel
from wvq.tokenizer import InputError

ROW = {
    "quantizer", "seed", "utilization", "perplexity", "quantization_error", "relative_quantization_error", "psnr",
    "ssim", "reconstruction_frechet_distance", "generation_frechet_distance", "extractor", "num_reference",
    "num_generated", "steps", "seconds", "setting", "weights_sha256", "token_entropy", "bits_per_token",
    "bits_per_image", "perturbed_frechet_distance", "num_perturbed",
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Sums in the same order here and in the processes of `jobs`."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
        assert row["steps"] == {"tokenizer": 4, "prior": 3}
        assert (row["num_reference"], row["num_generated"], row["extractor"]) == (100, 20, "efficientnet-lite0")
        scores = json.loads((tmp_path / "one" / f"{row['quantizer']}-0" / "scores.json").read_text())
        assert sum(scores["code_histogram"]) == 100 * 49
        used = sum(count > 0 for count in scores["code_histogram"])
        assert row["utilization"] == used / 32
        assert row["psnr"] == scores["reconstruction"]["psnr"]
        assert row["token_entropy"] == scores["reconstruction"]["token_entropy"] <= 49 * 5
        metrics = (tmp_path / "one" / f"{row['quantizer']}-0" / "prior" / "metrics.jsonl").read_text().splitlines()
        last = [one for one in map(json.loads, metrics) if "bits_per_token" in one][-1]
        assert (last["step"], row["bits_per_token"]) == (3, last["bits_per_token"])
        assert row["bits_per_image"] == 49 * row["bits_per_token"]
        assert (row["perturbed_frechet_distance"], row["num_perturbed"]) == (None, 0)
        assert row["generation_frechet_distance"] == scores["generation"]["generation_frechet_distance"]
        page = tmp_path / "one" / f"{row['quantizer']}-0" / "prior" / "pipeline" / "README.md"
        assert_card_has_the_reports_figures(page, row, report.read_text())
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


def tokenizers(folder: Path, images: Path, **changes: Any) -> Comparison:
    """The toy comparison without priors."""
    return dataclasses.replace(toy_comparison(folder, images), tokenizers_only=True, **changes)


def written(folder: Path, name: str = "scores.json") -> dict[str, int]:
    """When each cell's file was written, by the cell."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob(f"*/{name}")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, fashion_folder: Path) -> Path:
    """A comparison of two methods, one of them in two settings."""
    folder = tmp_path_factory.mktemp("undisturbed")
    compare(tokenizers(folder, fashion_folder, settings={"gamma": {"wasserstein_weight": [0.5, 2.0]}}))
    return folder


def test_a_killed_comparison_goes_on_cell_by_cell(tmp_path: Path, fashion_folder: Path, undisturbed: Path) -> None:
    again = tmp_path / "again"
    program = "from wvq.pipelines.command_line import main; main()"
    command = [sys.executable, "-c", program, "compare", "--config", str(undisturbed / "recipe.json")]
    command += ["--output-dir", str(again)]
    running = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    while not written(again) and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    done = written(again)
    assert "plain-0" in done
    assert len(done) < 3
    assert not (again / "comparison.json").exists()
    trained = {path: path.stat().st_mtime_ns for path in again.rglob("model.safetensors") if "model" in path.parts}

    compare(tokenizers(again, fashion_folder, settings={"gamma": {"wasserstein_weight": [0.5, 2.0]}}))
    assert written(again).keys() == {"plain-0", "matched-0", "matched-wasserstein_weight=2.0-0"}
    assert done.items() <= written(again).items()
    assert all(path.stat().st_mtime_ns == time for path, time in trained.items() if path.exists())
    results = [json.loads((folder / "comparison.json").read_text()) for folder in (undisturbed, again)]
    assert untimed(results[0]["rows"]) == untimed(results[1]["rows"])


def test_a_setting_is_what_its_cell_was_trained_with(undisturbed: Path) -> None:
    comparison = json.loads((undisturbed / "comparison.json").read_text())
    assert [row["setting"] for row in comparison["rows"]] == [
        {"wasserstein_weight": None}, {"wasserstein_weight": 0.5}, {"wasserstein_weight": 2.0},
    ]  # fmt: skip
    cell = json.loads((undisturbed / "matched-wasserstein_weight=2.0-0" / "tokenizer" / "run.json").read_text())
    assert cell["model"]["quantizer_options"] == {"wasserstein_weight": 2.0}
    assert comparison["rows"][1]["perplexity"] != comparison["rows"][2]["perplexity"]
    assert comparison["baseline"] == "plain"
    assert comparison["protocol"]["settings"] == {"gamma": {"wasserstein_weight": [0.5, 2.0]}}
    report = (undisturbed / "report.html").read_text()
    assert "gamma: wasserstein_weight" in report
    assert "plain (has no such option)" in report
    with (undisturbed / "comparison.csv").open() as file:
        assert [float(row["psnr"]) for row in csv.DictReader(file)] == [row["psnr"] for row in comparison["rows"]]
    assert len((undisturbed / "comparison.md").read_text().split("\n\n")[0].splitlines()) == 2 + 3


def test_a_comparison_may_grow(tmp_path: Path, fashion_folder: Path) -> None:
    first = tokenizers(tmp_path, fashion_folder, methods={"plain": Method("vanilla")})
    compare(first)
    before = written(tmp_path)
    recipe = json.loads((tmp_path / "recipe.json").read_text())
    for name in ("settings", "baseline", "tokenizer_budget", "prior_budget"):  # as in a recipe from before these
        del recipe[name]
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    grown = dataclasses.replace(first, methods={"plain": Method("vanilla"), "b": Method("ema")}, seeds=(0, 1))
    compare(grown)
    assert written(tmp_path).keys() == {"plain-0", "b-0", "plain-1", "b-1"}
    assert before.items() <= written(tmp_path).items()
    comparison = json.loads((tmp_path / "comparison.json").read_text())
    psnr = next(one for one in comparison["statistics"] if (one["quantizer"], one["score"]) == ("b", "PSNR (dB)"))
    values = {(row["quantizer"], row["seed"]): row["psnr"] for row in comparison["rows"]}
    expected = ttest_rel([values["b", 0], values["b", 1]], [values["plain", 0], values["plain", 1]])
    assert (psnr["seeds"], psnr["p"]) == (2, pytest.approx(expected.pvalue))
    with pytest.raises(InputError, match=r"methods\.plain\.quantizer = vanilla, this one has mmd"):
        compare(dataclasses.replace(grown, methods={"plain": Method("mmd"), "b": Method("ema")}))
    with pytest.raises(InputError, match=r"holds a comparison with methods\.b = .*, this one has None"):
        compare(first)


def test_what_changes_no_result_may_change(tmp_path: Path, fashion_folder: Path) -> None:
    config = tokenizers(tmp_path, fashion_folder)
    claim_folder(tmp_path, config, {})
    data = dataclasses.replace(config.data, num_workers=2)
    training = dataclasses.replace(config.tokenizer, data=data, log_every=7, checkpoint_every=3, keep_checkpoints=1)
    changed = dataclasses.replace(config, data=data, tokenizer=training, jobs=2)
    claim_folder(tmp_path, changed, {})
    recipe = json.loads((tmp_path / "recipe.json").read_text())
    assert (recipe["data"]["num_workers"], recipe["tokenizer"]["log_every"]) == (2, 7)
    with pytest.raises(InputError, match=r"holds a comparison with prior\.evaluation_images = 0, this one has 50"):
        claim_folder(
            tmp_path, dataclasses.replace(changed, prior=dataclasses.replace(config.prior, evaluation_images=50)), {}
        )
    with pytest.raises(InputError, match=r"holds a comparison with tokenizer\.steps = 4, this one has 5"):
        claim_folder(tmp_path, dataclasses.replace(changed, tokenizer=dataclasses.replace(training, steps=5)), {})
    del recipe["prior"]["seed"], recipe["methods"]["matched"]["quantizer_options"]  # as if there had been none
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    claim_folder(tmp_path, changed, {})
    recipe["methods"]["plain"]["sharpness"] = 1
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(InputError, match=r"recipe\.json: methods\.plain\.sharpness is a field that this version does"):
        claim_folder(tmp_path, changed, {})


def test_seconds_are_measured_once_for_all_seeds(tmp_path: Path, fashion_folder: Path) -> None:
    toy = toy_comparison(tmp_path, fashion_folder)
    default = {"steps": 100_000, "warmup_steps": 0}
    config = dataclasses.replace(
        toy,
        methods={"plain": Method("vanilla")},
        seeds=(0, 1),
        tokenizer=dataclasses.replace(toy.tokenizer, **default),
        prior=dataclasses.replace(toy.prior, **default),
        tokenizer_budget=Budget(seconds=2.0),
        prior_budget=Budget(seconds=2.0),
    )
    compare(config)
    rows = json.loads((tmp_path / "comparison.json").read_text())["rows"]
    for stage in config.stages:
        measured = json.loads((tmp_path / "steps" / f"plain-{stage}.json").read_text())
        assert measured["steps"] == int(2.0 / measured["seconds_per_step"])
        assert [row["steps"][stage] for row in rows] == [measured["steps"]] * 2
    protocol = json.loads((tmp_path / "comparison.json").read_text())["protocol"]
    assert protocol["tokenizer_training"]["steps"] == {"images": None, "seconds": 2.0}


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
        run_parallel(fail_or_wait, [[(True,)], [(False,)]], jobs=2)
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
        "from wvq.eval.comparison.parallel import run_parallel\n"
        "def work(folder):\n"
        "    pathlib.Path(folder, str(os.getpid())).touch()\n"
        "    time.sleep(300)\n"
        "if __name__ == '__main__':\n"
        "    run_parallel(work, [[(sys.argv[1],)], [(sys.argv[1],)]], jobs=2)\n"
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
