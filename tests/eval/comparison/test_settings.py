"""Settings of a comparison: which fields there are, how grids expand into cells, what each cell is trained with."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from wvq.eval.comparison.budget import Budget, apply_budget, measure_steps, steps_without_codes
from wvq.eval.comparison.collect import shared_protocol
from wvq.eval.comparison.compare import claim_folder
from wvq.eval.comparison.config import Comparison, Method
from wvq.pipelines.train_prior import PriorTraining
from wvq.pipelines.train_tokenizer import TokenizerTraining
from wvq.pipelines.training.saved_config import read_config
from wvq.prior import PriorSize
from wvq.tokenizer import InputError, TokenizerConfig, build_quantizer
from wvq.tokenizer.quantizers.codebook import CodebookQuantizer

OPTIONS = "tokenizer.model.quantizer_options"


def comparison(**changes: Any) -> Comparison:
    methods = {"plain": Method("vanilla", {"commitment_weight": 0.1}), "matched": Method("wasserstein")}
    tokenizer = TokenizerTraining(model=TokenizerConfig(codebook_size=1024, codebook_dim=8))
    return Comparison(**{"methods": methods, "tokenizer": tokenizer} | changes)


def groups(config: Comparison) -> list[str]:
    return [cell.group for cell in config.cells]


def test_without_settings_a_cell_is_a_method_with_a_seed() -> None:
    config = comparison(seeds=(0, 3))
    assert [cell.folder for cell in config.cells] == ["plain-0", "matched-0", "plain-3", "matched-3"]
    assert all(config.setting(cell) == {} for cell in config.cells)


def test_a_grid_has_every_combination_once() -> None:
    config = comparison(settings={"all": {"codebook_size": [256, 4096], "codebook_dim": [4, 8]}}, seeds=(0, 1))
    combinations = [(256, 4), (256, 8), (4096, 4), (4096, 8)]
    expected = [(m, size, dim, seed) for seed in (0, 1) for size, dim in combinations for m in ("plain", "matched")]
    found = []
    for cell in config.cells:
        model = config.training("tokenizer", cell).model
        found.append((cell.method, model.codebook_size, model.codebook_dim, cell.seed))
        assert config.setting(cell) == {"codebook_size": model.codebook_size, "codebook_dim": model.codebook_dim}
    assert found == expected
    assert config.cells[0].folder == "plain-codebook_size=256-codebook_dim=4-0"
    assert config.cells[2].folder == "plain-codebook_size=256-0"  # 8 is the recipe's own dimension


def test_studies_share_what_they_have_in_common() -> None:
    config = comparison(
        methods={"matched": Method("wasserstein")},
        settings={"size": {"codebook_size": [256, 1024]}, "dim": {"codebook_dim": [4, 8]}, "one": {"codebook_dim": 4}},
    )
    assert groups(config) == ["matched-codebook_size=256", "matched", "matched-codebook_dim=4"]


def test_a_method_is_not_varied_in_an_option_that_it_lacks() -> None:
    config = comparison(settings={"gamma": {"wasserstein_weight": [0, 0.5, 2.0]}})
    assert groups(config) == ["plain", "matched-wasserstein_weight=0.0", "matched", "matched-wasserstein_weight=2.0"]
    assert [config.setting(cell)["wasserstein_weight"] for cell in config.cells] == [None, 0.0, 0.5, 2.0]
    options = [config.training("tokenizer", cell).model.quantizer_options for cell in config.cells]
    weights = [{"wasserstein_weight": 0.0}, {}, {"wasserstein_weight": 2.0}]
    assert options == [{"commitment_weight": 0.1}, *weights]


def test_a_composite_has_its_own_options_and_those_of_its_sub_quantizers() -> None:
    methods = {"one": Method("ema"), "three": Method("residual", {"quantizers": 3, "quantizer": "ema"})}
    settings = {"decay": {"decay": [0.9, 0.99]}, "number": {"quantizers": [2, 3]}}
    config = comparison(methods=methods, settings=settings)
    assert groups(config) == ["one-decay=0.9", "three-decay=0.9", "one", "three", "three-quantizers=2"]
    assert [config.setting(cell) for cell in config.cells[2:]] == [
        {"decay": 0.99, "quantizers": None}, {"decay": 0.99, "quantizers": 3}, {"decay": 0.99, "quantizers": 2},
    ]  # fmt: skip
    model = config.training("tokenizer", config.cells[1]).model
    assert model.quantizer_options == {"quantizers": 3, "quantizer": "ema", "decay": 0.9}


def test_fields_of_both_stages() -> None:
    config = comparison(
        settings={"rates": {"tokenizer.learning_rate": "1e-3", "prior.learning_rate": [0.01], "num_layers": 2}},
        methods={"plain": Method("vanilla")},
    )
    (cell,) = config.cells
    assert cell.folder == "plain-tokenizer.learning_rate=0.001-prior.learning_rate=0.01-num_layers=2-0"
    assert config.training("tokenizer", cell).learning_rate == 1e-3
    prior = config.training("prior", cell)
    assert (prior.learning_rate, prior.model.num_layers) == (0.01, 2)
    assert prior.tokenizer == f"runs/comparison/{cell.folder}/tokenizer/model"


def test_a_prior_of_another_size_has_its_width_and_depth() -> None:
    config = comparison(
        settings={"prior": {"size": ["XS", "S"], "num_heads": [2]}},
        methods={"a": Method("vanilla")},
        prior=PriorTraining(model=PriorSize(hidden_size=64, num_layers=1, num_heads=4)),
    )
    models = [config.training("prior", cell).model for cell in config.cells]
    assert models == [PriorSize(size="XS", num_heads=2), PriorSize(size="S", num_heads=2)]


def test_a_field_that_is_a_list_takes_a_list_of_lists() -> None:
    config = comparison(settings={"width": {"channel_multipliers": [[1, 2], [1, 1]]}})
    models = [config.training("tokenizer", cell).model for cell in config.cells]
    assert [model.channel_multipliers for model in models] == [(1, 2), (1, 2), (1, 1), (1, 1)]
    assert config.cells[0].folder == "plain-channel_multipliers=1-2-0"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"a": {"codebook_sise": [1]}}}, r"unknown field 'codebook_sise' \(did you mean 'codebook_size'"),
        ({"settings": {"a": {"mmd_weight": [1]}}}, "unknown field 'mmd_weight'"),  # no method is of that quantizer
        ({"settings": {"a": {"learning_rate": [1]}}}, "may be tokenizer.learning_rate or prior.learning_rate"),
        ({"settings": {"a": {"seed": [1]}}}, "unknown field 'seed'"),
        ({"settings": {"a": {"quantizer": ["mmd"]}}}, "unknown field 'quantizer'"),
        ({"settings": {"a": {"codebook_size": []}}}, "settings.a.codebook_size has no values"),
        ({"settings": {"a": {"codebook_size": ["big"]}}}, "settings.a.codebook_size has the value 'big', .* no int"),
        ({"settings": {"a": {"channel_multipliers": [1, 2]}}}, "needs a list of lists"),
        ({"settings": {"a": [1]}}, r"settings.a is \[1\]; give"),
        ({"settings": {"a": {"codebook_size": [0]}}}, "codebook_size is 0"),
        ({"settings": {"a": {"num_layers": [2]}}, "tokenizers_only": True}, "unknown field 'num_layers'"),
        ({"baseline": "plane"}, "baseline is 'plane'; valid are the methods plain, matched"),
        ({"seeds": (0, 0)}, r"seeds are \[0, 0\]; each may be given once"),
        ({"tokenizer_budget": Budget(images=63)}, "a budget of 63 images buys no step of batch_size 64"),
        ({"tokenizer": TokenizerTraining(steps=7, warmup_steps=0), "tokenizer_budget": Budget(images=640)},
         "tokenizer.steps is 7 and tokenizer_budget is given too"),
        ({"settings": {"a": {"tokenizer.steps": [500]}}, "tokenizer_budget": Budget(seconds=9)},
         "settings vary tokenizer.steps, which tokenizer_budget sets"),
        ({"tokenizer": TokenizerTraining(adversarial_weight=0.1), "tokenizer_budget": Budget(seconds=60)},
         "tokenizer.adversarial_weight is 0.1 and tokenizer_budget has seconds = 60; steps take"),
        ({"settings": {"a": {"adversarial_weight": [0, 0.2]}}, "tokenizer_budget": Budget(seconds=60)},
         "tokenizer.adversarial_weight is 0.2 and tokenizer_budget has seconds = 60; steps"),
    ],
)  # fmt: skip
def test_bad_settings_and_budgets(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        comparison(**changes)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"images": 1, "seconds": 1.0}, "images = 1 and seconds = 1.0; give one of the two"),
        ({"images": 0}, "images = 0; it must be at least 1"),
        ({"seconds": 0.0}, "seconds = 0.0; it must be above 0"),
        ({"seconds": float("nan")}, "seconds = nan; it must be above 0"),
    ],
)
def test_a_budget_is_one_thing(budget: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Budget(**budget)


def test_images_buy_steps() -> None:
    config = comparison(settings={"batch": {"tokenizer.batch_size": [32, 100]}}, tokenizer_budget=Budget(images=64_099))
    trainings = [config.training("tokenizer", cell) for cell in config.cells]
    assert [(one.batch_size, one.steps) for one in trainings] == [(32, 2003), (32, 2003), (100, 640), (100, 640)]
    assert config.training("prior", config.cells[0]).steps == PriorTraining().steps
    assert apply_budget(PriorTraining(batch_size=128), Budget()) == PriorTraining()


def test_seconds_buy_as_many_steps_as_were_measured(tmp_path: Path) -> None:
    probes = []

    def train(training: TokenizerTraining) -> None:  # 0.5 seconds a step, after a slow start
        probes.append(training)
        rows = [{"step": s, "split": "train", "seconds": 60 + s / 2} for s in range(10, training.steps + 1, 10)]
        rows[1]["seconds"] += 40  # something else ran
        lines = [json.dumps(row) for row in [*rows, {"step": training.steps, "split": "evaluation"}]]
        Path(training.output_dir, "metrics.jsonl").write_text("\n".join(lines) + "\n")

    path = tmp_path / "steps" / "plain-tokenizer.json"
    measure_steps(train, TokenizerTraining(), 33.3, path)
    measured = json.loads(path.read_text())
    assert measured == {"steps": 66, "seconds": 33.3, "seconds_per_step": 0.5}
    measure_steps(train, TokenizerTraining(), 33.3, path)
    assert len(probes) == 1  # the second time it was read
    assert dataclasses.replace(probes[0], output_dir="") == TokenizerTraining(
        output_dir="", steps=40, warmup_steps=0, log_every=10, evaluate_every=40, checkpoint_every=40
    )
    training = TokenizerTraining(batch_size=4)
    late = {"initialization": "data", "initialization_steps": 500}
    training = dataclasses.replace(
        training, model=dataclasses.replace(training.model, codebook_size=4000, quantizer_options=late)
    )
    probe, waiting = steps_without_codes(training)
    assert probe.model.quantizer_options == {"initialization": "data", "initialization_steps": 0}
    assert waiting - 10 < 4000 / (4 * training.model.num_positions) <= waiting
    assert dataclasses.replace(probe, model=training.model) == training
    four = {"initialization": "kmeans++"}
    spread = dataclasses.replace(training, model=dataclasses.replace(training.model, quantizer_options=four))
    quantizer = build_quantizer("vanilla", 4000, training.model.codebook_dim, **four)
    assert isinstance(quantizer, CodebookQuantizer)
    assert quantizer.first_vectors
    steps = quantizer.first_vectors.needed / (4 * training.model.num_positions)
    assert steps_without_codes(spread)[1] - 10 < steps <= steps_without_codes(spread)[1]
    measure_steps(train, probe, 33.3, tmp_path / "late.json", passed_over=waiting)
    assert probes[-1].steps == waiting + 40
    assert json.loads((tmp_path / "late.json").read_text())["steps"] == 66

    with pytest.raises(InputError, match=r"a budget of 0.4 seconds buys no step; one takes 0.5"):
        measure_steps(train, TokenizerTraining(), 0.4, tmp_path / "other.json")
    assert not (tmp_path / "other.json").exists()


def test_a_recipe_leaves_open_what_a_warm_up_comes_to(tmp_path: Path) -> None:
    open_warmup = TokenizerTraining(model=TokenizerConfig(codebook_size=1024, codebook_dim=8))
    budget = comparison(tokenizer=open_warmup, tokenizer_budget=Budget(images=6400), tokenizers_only=True)
    steps = comparison(tokenizer=dataclasses.replace(open_warmup, steps=2000), tokenizers_only=True)
    studies = dataclasses.replace(steps, settings={"length": {"tokenizer.steps": [150, 2000]}})
    for number, (config, warmups) in enumerate([(budget, [20, 20]), (studies, [30, 30, 200, 200])]):
        folder = tmp_path / str(number)
        for _ in range(2):  # and it resumes
            claim_folder(folder, config, {"train images": "1"})
        again = read_config(folder / "recipe.json", Comparison)
        for one in (config, again):
            assert [one.training("tokenizer", cell).warmup for cell in one.cells] == warmups


def test_a_recipe_in_which_a_warm_up_was_a_number_still_matches(tmp_path: Path) -> None:
    config = comparison(tokenizer_budget=Budget(images=64 * 500), tokenizers_only=True)
    claim_folder(tmp_path, config, {})
    recipe = json.loads((tmp_path / "recipe.json").read_text())
    assert recipe["tokenizer"]["warmup_steps"] is None
    recipe["tokenizer"]["warmup_steps"] = 200
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    claim_folder(tmp_path, config, {})
    given = dataclasses.replace(config.tokenizer, warmup_steps=100)
    with pytest.raises(InputError, match=r"tokenizer\.warmup_steps = 200, this one has 100"):
        claim_folder(tmp_path, dataclasses.replace(config, tokenizer=given), {})


def test_the_protocol_says_what_a_warm_up_came_to(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"methods": {"plain": Method("vanilla")}, "output_dir": str(tmp_path)}
    config = comparison(tokenizer_budget=Budget(images=6400), **changes)
    claim_folder(tmp_path, config, {})
    (tmp_path / "plain-0").mkdir()
    scores = {"reconstruction": {"protocol": {"tokenizer": "0"}}, "generation": None}
    (tmp_path / "plain-0" / "scores.json").write_text(json.dumps(scores))
    protocol = shared_protocol(config)
    assert protocol["tokenizer_training"]["warmup_steps"] is None, "by each cell's own steps"
    assert protocol["prior_training"]["warmup_steps"] == 200
