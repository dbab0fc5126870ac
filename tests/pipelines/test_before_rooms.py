"""What commit 11cb3c1, the last one without sub-packages, wrote (tests/before_rooms) loads, resumes and samples."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures import write_fashion_folder
from PIL import Image
from safetensors.torch import load_file
from toy_runs import STAGES, assert_close_runs, assert_equal_runs, changed, weights

from wvq.eval.comparison.compare import Comparison, compare
from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.command_line import parse
from wvq.pipelines.tokenize import Tokenization, tokenize
from wvq.pipelines.train_prior import train_prior
from wvq.pipelines.train_tokenizer import train_tokenizer
from wvq.pipelines.training.saved_config import as_json, read_config
from wvq.tokenizer import VQTokenizer
from wvq.tokenizer.data import DataConfig, load_splits, to_model
from wvq.tokenizer.tokens import TokenDataset

FIXTURES = Path(__file__).parents[1] / "before_rooms"
TRAIN: dict[str, Callable[[Any], Path]] = {"tokenizer": train_tokenizer, "prior": train_prior}
DONE = ("json", "jsonl", "safetensors")  # what is read of finished cells
DATA = DataConfig(source="images", image_size=16, channels=1)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 images of train and 10 of evaluation in each class, as when the fixtures were made."""
    folder = tmp_path_factory.mktemp("images")
    write_fashion_folder(folder)
    for image in folder.rglob("[2-4]?.png"):
        image.unlink()
    return folder


@pytest.fixture(autouse=True)
def working_folder(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A copy of the fixtures, with the images that their relative paths lead to, and the one thread that made them."""
    shutil.copytree(FIXTURES, tmp_path, dirs_exist_ok=True)
    (tmp_path / "images").symlink_to(images)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def stopped_run(stage: str) -> Any:
    """The configuration of the run that was stopped, by its own run.json as a recipe."""
    return parse(f"train-{stage}", [f"--config={stage}/run.json", f"--output-dir={stage}"])


def run_anew(config: Any, stage: str) -> Any:
    """That of the same run from its beginning, where codes were drawn from N(0, init_std^2) unless it was said."""
    if stage == "prior":
        return changed(config, "anew")
    options = {**config.model.quantizer_options, "initialization": "normal"}
    return changed(config, "anew", model=replace(config.model, quantizer_options=options))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stopped_run_resumes_and_ends_as_the_one_that_was_not_stopped(stage: str) -> None:
    config = stopped_run(stage)
    anew = run_anew(config, stage)
    assert [path.name for path in Path(stage, "checkpoints").iterdir()] == ["step-00000003"]
    TRAIN[stage](config)
    TRAIN[stage](anew)
    stored = load_file(f"pipeline/{stage}/model.safetensors")
    if all(torch.equal(stored[name], value) for name, value in weights(anew).items()):
        assert_equal_runs(config, anew)
    else:  # a processor that sums in another order
        for one in (config, anew):
            torch.testing.assert_close(weights(one), stored, rtol=0, atol=1e-3)
        assert_close_runs(config, anew, metrics=1e-3, rtol=0, atol=1e-3)


def test_a_run_that_is_older_still_resumes_with_the_defaults_of_what_its_file_lacks() -> None:
    config, file = stopped_run("tokenizer"), Path("tokenizer/run.json")
    complete = json.loads(file.read_text())
    older = json.loads(file.read_text())
    for name in ("mixed_precision", "evaluation_images", "max_skipped_steps", "log_with", "seed"):
        del older[name]
    for group, name in (("data", "streaming"), ("data", "skip_bad_images"), ("model", "quantizer_options")):
        del older[group][name]
    file.write_text(json.dumps(older))
    train_tokenizer(config)
    anew = run_anew(config, "tokenizer")
    train_tokenizer(anew)
    torch.testing.assert_close(weights(config), weights(anew), rtol=0, atol=1e-3)
    now = json.loads(file.read_text())
    for group in ("data", "model"):  # which have options by now that the complete file does not know
        assert complete.pop(group).items() <= now.pop(group).items()
    assert complete.items() <= now.items()


def test_tokens_are_found_under_their_key_and_not_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    anew = tokenize(Tokenization("pipeline/tokenizer", DATA, "tokens-anew"))
    monkeypatch.delattr(VQTokenizer, "encode")
    found = tokenize(Tokenization("pipeline/tokenizer", DATA, "tokens"))
    assert found.name == anew.name
    for split, count in (("train", 200), ("evaluation", 100)):
        mine, its = TokenDataset(found, split), TokenDataset(anew, split)
        assert len(mine) == len(its) == count
        for name, values in mine.__getitems__(range(count)).items():
            torch.testing.assert_close(values, its.__getitems__(range(count))[name], rtol=0, atol=0)


def test_a_pipeline_samples_the_same_images() -> None:
    pipeline = ClassConditionalPipeline.from_pretrained("pipeline")
    random = torch.Generator().manual_seed(0)
    images = pipeline(["Sneaker", "Bag"], 2, guidance_scale=2.0, generator=random, output_type="uint8").images
    stored = np.asarray(Image.open("expected/samples.png")).reshape(16, 4, 16).swapaxes(0, 1)
    assert np.abs(images[:, 0].numpy().astype(int) - stored.astype(int)).max() <= 1  # as processors round


CODES: dict[str, list[int]] = json.loads((FIXTURES / "expected" / "codes.json").read_text())


@pytest.mark.parametrize("name", CODES)
def test_a_tokenizer_with_each_quantizer_gives_the_same_codes(name: str) -> None:
    originals = to_model(load_splits(DATA)[1].__getitems__(range(0, 100, 10))["images"])
    assert VQTokenizer.from_pretrained(f"tokenizers/{name}").encode(originals).flatten().tolist() == CODES[name]


def test_a_stopped_comparison_resumes() -> None:
    """Both tokenizers are trained, and one of them has its scores."""
    done = {path: path.read_bytes() for path in Path("comparison").glob("*-0/**/*") if path.suffix[1:] in DONE}
    compare(parse("compare", ["--config=comparison/recipe.json"]))
    assert {path: path.read_bytes() for path in done} == done
    stored = json.loads(Path("expected/moved-scores.json").read_text())["reconstruction"]
    scores = json.loads(Path("comparison/moved-0/scores.json").read_text())["reconstruction"]
    assert stored["protocol"].items() <= scores["protocol"].items()  # later scores have lines of their own
    numbers = {name: value for name, value in stored.items() if isinstance(value, float)}
    assert {name: scores[name] for name in numbers} == pytest.approx(numbers, rel=1e-3)


@pytest.mark.parametrize("name", ["ablation", "demo", "transport"])
def test_recipes_mean_what_they_meant(name: str) -> None:
    config = parse("compare", [f"--config=recipes/{name}.yaml"])
    assert as_json(config) == as_json(read_config(Path(f"expected/{name}.json"), Comparison))
