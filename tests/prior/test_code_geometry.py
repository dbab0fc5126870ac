"""A prior that is trained with the geometry of the codes, and the plain one that it is saved as."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from toy_runs import assert_equal_runs, changed, rows, toy_stage, weights
from transformers import AutoModelForCausalLM

from wvq.pipelines.train_prior import PriorTraining, train_prior
from wvq.pipelines.training.muon import build_optimizers
from wvq.pipelines.training.run import Run
from wvq.pipelines.training.sharding import weight_average, whole_model
from wvq.prior import PriorConfig, build_prior
from wvq.prior.code_geometry import BANDWIDTH, CodeGeometry, code_features
from wvq.prior.loading import load_prior
from wvq.prior.loss import TokenLoss
from wvq.tokenizer import InputError

CONFIG = PriorConfig(hidden_size=32, num_layers=2, num_heads=2, num_codes=40, num_tokens=6, num_classes=3)
PRIORS = [(architecture, tied) for architecture in ("llama", "gpt2") for tied in (False, True)]


def drawn_codes(seed: int = 0) -> torch.Tensor:
    return torch.randn(40, 4, generator=torch.Generator().manual_seed(seed)) * torch.tensor([5.0, 1.0, 0.2, 0.01])


def geometric_loss(learnt: bool = True, **changes: Any) -> TokenLoss:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    prior = build_prior(dataclasses.replace(CONFIG, **changes))
    geometry = CodeGeometry(code_features(drawn_codes(), count=16), prior)
    if learnt:
        for table in geometry.parameters():
            torch.nn.init.normal_(table)
    return TokenLoss(prior, CONFIG.num_codes, geometry=geometry).eval()


def test_products_of_features_are_gaussian_kernels_of_scaled_codes():
    codes = drawn_codes()
    features = code_features(codes, count=40_000).double()
    centred = (codes - codes.mean(dim=0)).double()
    distances = torch.cdist(centred, centred) + torch.diag(torch.full((40,), torch.inf, dtype=torch.float64))
    spacing = distances.amin(dim=1).square().mean()
    scaled = (
        centred
        @ torch.linalg.inv(
            torch.linalg.cholesky(torch.cov(centred.mT, correction=0) + spacing * torch.eye(4, dtype=torch.float64))
        ).mT
    )
    squares = torch.cdist(scaled, scaled).square()  # any square root of the covariance gives the same distances
    kernels = (-squares / (2 * BANDWIDTH**2)).exp()
    torch.testing.assert_close(features @ features.mT, kernels, rtol=0, atol=0.03)


def test_directions_that_no_code_uses_change_little():
    codes = torch.randn(512, 3, generator=torch.Generator().manual_seed(0))
    unused = 1e-3 * torch.randn(512, 13, generator=torch.Generator().manual_seed(1))
    kernels = [code_features(table, count=40_000) for table in (codes, torch.cat([codes, unused], dim=1))]
    torch.testing.assert_close(kernels[0] @ kernels[0].mT, kernels[1] @ kernels[1].mT, rtol=0, atol=0.05)


def test_features_depend_on_the_seed_and_not_on_position_scale_or_axes_of_the_codes():
    codes, features = drawn_codes(), code_features(drawn_codes(), count=32, seed=1)
    torch.testing.assert_close(code_features(3 * codes - 7, count=32, seed=1), features, rtol=0, atol=1e-4)
    assert torch.equal(code_features(codes, count=32, seed=1), features)
    assert not torch.equal(code_features(codes, count=32, seed=2), features)
    flat = torch.cat([codes, torch.full((40, 1), 3.0)], dim=1)  # a direction without variance says nothing
    assert code_features(flat, count=32).isfinite().all()


def test_codes_of_different_codebooks_are_unrelated():
    first, second = drawn_codes(), drawn_codes(seed=1)
    features = code_features(first, second, first, count=40_000)
    assert torch.equal(features[:40], code_features(first, count=40_000))
    for other in (slice(40, 80), slice(80, 120)):
        assert (features[:40] @ features[other].mT).abs().max() < 0.04


@pytest.mark.parametrize(
    ("codes", "count", "message"),
    [
        (torch.randn(9, 2), 0, "count is 0; it must be at least 1"),
        (torch.ones(9, 2), 4, "all 9 codes are the same vector"),
        (torch.randn(9), 4, r"codes have shape \(9,\); they must be \(K, D\) and finite"),
        (torch.full((9, 2), torch.nan), 4, r"codes have shape \(9, 2\); they must be \(K, D\) and finite"),
    ],
)
def test_what_has_no_features_is_refused(codes: torch.Tensor, count: int, message: str):
    with pytest.raises(InputError, match=message):
        code_features(codes, count=count)


def test_a_negative_number_of_features_is_refused_before_training():
    with pytest.raises(InputError, match="code_geometry is -1; it must be at least 0"):
        PriorTraining(code_geometry=-1)


@pytest.mark.parametrize(("architecture", "tied"), PRIORS)
def test_a_folded_prior_is_a_plain_one_of_the_same_logits(architecture: Any, tied: bool, tmp_path: Path):
    model = geometric_loss(architecture=architecture, tie_embeddings=tied)
    codes, labels = torch.randint(CONFIG.num_codes, (5, 6)), torch.tensor([0, 1, 2, 3, 0])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ids = torch.cat([labels[:, None] + CONFIG.num_codes, codes[:, :-1]], dim=1)
    prior: Any = model.prior
    assert model.geometry is not None
    with torch.no_grad():
        embedded = prior.get_input_embeddings()(ids) + model.geometry.input_part(ids)
        hidden = prior.base_model(inputs_embeds=embedded).last_hidden_state
        logits = hidden @ (prior.lm_head.weight + model.geometry.output_part()).mT
    assert not torch.allclose(logits, prior(ids).logits, atol=0.1)

    folded = whole_model(model)
    assert folded.geometry is None
    torch.testing.assert_close(folded.eval()(codes, labels), model(codes, labels), rtol=1e-6, atol=0)
    folded.prior.save_pretrained(tmp_path)
    automatic: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    for loaded in (automatic.eval(), load_prior(tmp_path).eval()):
        assert type(loaded) is type(build_prior(dataclasses.replace(CONFIG, architecture=architecture)))
        torch.testing.assert_close(loaded(ids).logits, logits, rtol=1e-5, atol=1e-5)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(("architecture", "tied"), PRIORS)
def test_training_begins_as_without_geometry_and_reaches_every_map(architecture: Any, tied: bool):
    model = geometric_loss(learnt=False, architecture=architecture, tie_embeddings=tied)
    plain = TokenLoss(model.prior, CONFIG.num_codes).eval()
    codes, labels = torch.randint(CONFIG.num_codes, (5, 6)), torch.tensor([0, 1, 2, 3, 0])
    loss = model(codes, labels)
    assert torch.equal(loss, plain(codes, labels))
    loss.backward()
    assert model.geometry is not None
    maps = dict(model.geometry.named_parameters())
    assert maps.keys() == ({"input_map"} if tied else {"input_map", "output_map"})
    for name, table in maps.items():
        assert table.grad is not None, name
        assert table.grad.norm() > 0, name


def test_the_average_of_folded_priors_is_the_folded_average():
    model = geometric_loss()
    average = weight_average(model, 0.5, Accelerator())
    before = copy.deepcopy(whole_model(model).prior.state_dict())
    average.update_parameters(model)  # the first is a copy
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter)
    average.update_parameters(model)
    assert isinstance(average.module, TokenLoss)
    after, mean = (whole_model(each).prior.state_dict() for each in (model, average.module))
    for name, value in mean.items():
        torch.testing.assert_close(value.cpu(), (before[name] + after[name]) / 2)


def test_neighbours_of_seen_codes_are_learnt_from_few_examples():
    # Codes on a line: each is followed by one close to it; every code is seen about twice.
    generator = torch.Generator().manual_seed(0)
    line = torch.linspace(-1, 1, 200)[:, None]

    def walks(count: int) -> torch.Tensor:
        starts = torch.randint(200, (count, 1), generator=generator)
        steps = torch.randint(-3, 4, (count, 6), generator=generator).cumsum(dim=1)
        return (starts + steps).clamp(0, 199)

    train, held_out, labels = walks(64), walks(500), torch.zeros(500, dtype=torch.int64)

    def held_out_loss(features: int) -> float:
        torch.manual_seed(0)
        torch.set_num_threads(1)
        prior = build_prior(dataclasses.replace(CONFIG, num_codes=200))
        geometry = CodeGeometry(code_features(line, count=features), prior) if features else None
        model = TokenLoss(prior, 200, geometry=geometry)
        optimizers = build_optimizers(model, PriorTraining(learning_rate=0.01))
        for _ in range(60):
            model(train, labels[:64]).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        with torch.no_grad():
            return float(whole_model(model).eval()(held_out, labels))

    assert held_out_loss(32) < held_out_loss(0) - 0.5


class Interruption(Exception):
    """Power failure, say."""


@pytest.mark.parametrize("tied", [False, True])
def test_a_resumed_run_is_the_uninterrupted_one_and_its_model_a_plain_one(
    tied: bool, fashion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _, config = toy_stage("prior", fashion_folder, tmp_path)
    size = dataclasses.replace(config.model, tie_embeddings=tied, attention_dropout=0.2)
    options = {"ema_decay": 0.8, "gradient_accumulation_steps": 2, "gradient_checkpointing": True}
    options |= {"sampled_ids": 6} if tied else {"label_smoothing": 0.1}
    config = changed(config, code_geometry=8, model=size, **options)
    straight = changed(config, "straight")
    train_prior(straight)
    log = Run.log

    def log_and_break(run: Run, step: int, split: str, values: dict[str, float]) -> None:
        log(run, step, split, values)
        if step == 5:
            raise Interruption

    monkeypatch.setattr(Run, "log", log_and_break)
    with pytest.raises(Interruption):
        train_prior(config)
    monkeypatch.undo()
    train_prior(config)
    assert_equal_runs(config, straight)

    without = changed(config, "without", code_geometry=0)
    train_prior(without)
    assert weights(config).keys() == weights(without).keys()
    assert rows(config, "evaluation") != rows(without, "evaluation")
    with pytest.raises(InputError, match="holds a run with code_geometry = 8, this one has 0"):
        train_prior(changed(config, code_geometry=0))
