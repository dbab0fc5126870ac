"""A comparison with a grid gives every method its own best options, chosen on a part of the training images."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wvq.eval.comparison.compare import Comparison, Method, claim_folder, compare
from wvq.eval.comparison.config import OptionGrid
from wvq.eval.comparison.own_options import grid_comparison, with_own_options
from wvq.pipelines.train_tokenizer import TokenizerTraining
from wvq.tokenizer import InputError, TokenizerConfig
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import load_splits


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def toy(folder: Path, images: Path, **changes: Any) -> Comparison:
    data = DataConfig(source=str(images), channels=1)
    model = TokenizerConfig(channels=1, base_channels=8, channel_multipliers=(1, 1, 1), num_blocks=1,
                            latent_channels=8, codebook_size=32, codebook_dim=4)  # fmt: skip
    grid = OptionGrid({"commitment_weight": [0.1, 5.0], "init_std": [0.01, 1.0]}, **changes)
    return Comparison(
        output_dir=str(folder),
        data=data,
        methods={"plain": Method("vanilla", {"codebook_weight": 0.5}), "scalar": Method("fsq")},
        tokenizer=TokenizerTraining(data=data, model=model, steps=4, warmup_steps=1, batch_size=16, evaluate_every=4),
        grid=grid,
        tokenizers_only=True,
        extractor="efficientnet-lite0",
    )


def test_every_method_is_compared_with_its_own_best_options(fashion_folder: Path, tmp_path: Path) -> None:
    config = toy(tmp_path, fashion_folder, validation_fraction=0.2)
    report = compare(config)
    comparison = read(tmp_path / "comparison.json")
    tried = [row for row in read(tmp_path / "grid" / "comparison.json")["rows"] if row["quantizer"] == "plain"]
    assert len(tried) == 4
    best = min(tried, key=lambda row: row["reconstruction_frechet_distance"])
    assert len({row["reconstruction_frechet_distance"] for row in tried}) > 1
    trained = read(tmp_path / "plain-0" / "tokenizer" / "run.json")
    assert trained["model"]["quantizer_options"] == {"codebook_weight": 0.5, **best["setting"]}
    assert comparison["protocol"]["methods"]["plain"]["quantizer_options"] == {
        "codebook_weight": 0.5,
        **best["setting"],
    }

    # Options that a method lacks are not varied: it is tried once, and left as it is.
    rows = comparison["grid"]
    assert [row["quantizer"] for row in rows].count("scalar") == 1
    chosen = {row["quantizer"]: row["setting"] for row in rows if row["chosen"]}
    assert chosen == {"plain": best["setting"], "scalar": dict.fromkeys(best["setting"])}
    assert read(tmp_path / "scalar-0" / "tokenizer" / "run.json")["model"]["quantizer_options"] == {}
    assert report.read_text().count('class="chosen"') == 2

    # The grid saw training images alone; the comparison is trained on all and scored on the evaluation images.
    train, evaluation = load_splits(config.data)
    inner_train, validation = load_splits(replace(config.data, validation_fraction=0.2))
    inputs = read(tmp_path / "grid" / "inputs.json")
    assert inputs == {"train images": inner_train.fingerprint, "evaluation images": validation.fingerprint}
    assert tried[0]["num_reference"] == len(validation)
    assert len(inner_train) + len(validation) == len(train)
    assert comparison["rows"][0]["num_reference"] == len(evaluation)

    # The same command finds everything done.
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("scores.json")}
    assert len(kept) == 7
    compare(config)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert read(tmp_path / "comparison.json") == comparison

    # The other score may decide otherwise.
    by_psnr = with_own_options(replace(config, grid=replace(config.grid, score="psnr"))).methods["plain"]
    assert by_psnr.quantizer_options == {"codebook_weight": 0.5, **max(tried, key=lambda row: row["psnr"])["setting"]}


def test_only_options_of_quantizers_may_differ(fashion_folder: Path, tmp_path: Path) -> None:
    config = toy(tmp_path, fashion_folder)
    with pytest.raises(InputError, match=r"grid.values have 'learning_rate'; valid are options of the quantizers"):
        replace(config, grid=OptionGrid({"learning_rate": [0.1]}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"comitment_weight": [0.1]}, r"unknown field 'comitment_weight' \(did you mean 'commitment_weight'"),
        ({"commitment_weight": ["much"]}, "commitment_weight has the value 'much', which is no float"),
        ({"commitment_weight": [0.1, -1.0]}, "commitment_weight is -1.0; it must be at least 0"),
        ({"commitment_weight": []}, "commitment_weight has no values; give at least one"),
    ],
)
def test_a_grid_is_refused_before_a_folder_is_claimed(
    fashion_folder: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    config = toy(tmp_path / "one", fashion_folder)
    with pytest.raises(InputError, match=message):
        replace(config, grid=OptionGrid(values))


def test_a_grid_is_checked() -> None:
    with pytest.raises(InputError, match=r"grid\.validation_fraction is 0; it must be between 0 and 1, exclusive"):
        OptionGrid(validation_fraction=0)


def test_a_grid_keeps_the_seed_that_it_was_begun_with(fashion_folder: Path, tmp_path: Path) -> None:
    config = replace(toy(tmp_path, fashion_folder), seeds=(3,))
    claim_folder(tmp_path / "grid", grid_comparison(config), {})
    for seeds in ((0, 3), (3, 0)):
        again = grid_comparison(replace(config, seeds=seeds))
        assert again.seeds == (3,)
        claim_folder(tmp_path / "grid", again, {})


def test_a_grid_makes_the_only_split_of_the_training_images(fashion_folder: Path, tmp_path: Path) -> None:
    config = toy(tmp_path, fashion_folder)
    with pytest.raises(InputError, match=r"data.validation_fraction is 0.1 and grid.values are given; grid.validation"):
        replace(config, data=replace(config.data, validation_fraction=0.1))
