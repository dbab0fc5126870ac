"""The guard against numbers that are not finite holds where the host does not ask for them in every step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from other_device import NO_GPU, device_called
from torch import Tensor, nn
from toy_runs import changed, rows, toy_stage, weights

from wvq.pipelines.train_prior import PriorTraining
from wvq.pipelines.training.muon import build_optimizers
from wvq.pipelines.training.sharding import WeightAverage
from wvq.pipelines.training.step_record import ASKED_EVERY
from wvq.tokenizer import InputError, VanillaQuantizer, VQTokenizer
from wvq.tokenizer.storage.untrusted import read_json

DEVICES = ["elsewhere", pytest.param("gpu", marks=[pytest.mark.gpu, NO_GPU])]
NEVER = 10**6


def poison_gradients(monkeypatch: pytest.MonkeyPatch, batches: range) -> None:
    backward, count = Accelerator.backward, [0]

    def poisoned(accelerator: Accelerator, loss: Tensor) -> None:
        count[0] += 1
        backward(accelerator, loss * float("nan") if count[0] in batches else loss)

    monkeypatch.setattr(Accelerator, "backward", poisoned)


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("stage", [pytest.param("tokenizer", marks=pytest.mark.slow), "prior"])
def test_skipped_steps_change_nothing_as_on_the_cpu(
    stage: str, name: str, fashion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ends = []
    for place in ("cpu", name):
        train, config = toy_stage(stage, fashion_folder, tmp_path / place)
        rarely: dict[str, Any] = dict.fromkeys(("log_every", "evaluate_every", "checkpoint_every"), NEVER)
        rarely |= {"sample_every": 0} if stage == "prior" else {}
        config = changed(config, batch_size=4, ema_decay=0.5, **rarely)
        with monkeypatch.context() as patches:
            poison_gradients(patches, range(3, 5))
            if place == "cpu":
                train(config)
            else:
                with device_called(place):
                    train(config)
        (line,) = rows(config, "train")
        assert line["skipped_steps"] == 2
        ends.append((line["loss"], weights(config)))
    assert ends[1][0] == pytest.approx(ends[0][0], rel=1e-3)
    for key, value in ends[0][1].items():
        torch.testing.assert_close(ends[1][1][key], value, rtol=0.05, atol=5e-3)


@pytest.mark.parametrize("name", DEVICES)
def test_the_limit_is_noticed_later_and_told_as_it_was(
    name: str, fashion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    train, config = toy_stage("tokenizer", fashion_folder, tmp_path)
    config = changed(config, steps=20, batch_size=4, max_skipped_steps=3, log_every=NEVER, evaluate_every=NEVER)
    config = changed(config, checkpoint_every=NEVER)
    poison_gradients(monkeypatch, range(4, 7))  # the steps that follow would be good ones
    made = []
    features = VQTokenizer.features
    monkeypatch.setattr(VQTokenizer, "features", lambda model, images: made.append(1) or features(model, images))
    with device_called(name), pytest.raises(InputError) as stopped:
        train(config)
    assert len(made) == ASKED_EVERY
    assert read_json(Path(config.output_dir) / "precision.json").keys() == {"device", "layers", "weights", "quantizer"}
    for part in ("step 6 was the last of 3 in a row", "batch 5: loss ", "gradient norm of network nan"):
        assert part in str(stopped.value)
    assert not list((Path(config.output_dir) / "checkpoints").glob("*"))


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize(
    "quantizer",
    ["transport", *(pytest.param(name, marks=pytest.mark.slow) for name in ("wasserstein", "ema", "online"))],
)
def test_features_that_are_not_finite_move_no_statistics(
    quantizer: str, name: str, fashion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    features, count, states = VQTokenizer.features, [0], []

    def poisoned(tokenizer: VQTokenizer, images: Tensor) -> Tensor:
        count[0] += tokenizer.training
        spoilt = tokenizer.training and count[0] in (5, 6)
        if tokenizer.training and count[0] in (5, 7, 8):
            states.append([value.detach().cpu().clone() for value in tokenizer.state_dict().values()])
        return features(tokenizer, images) * (float("nan") if spoilt else 1)

    monkeypatch.setattr(VQTokenizer, "features", poisoned)
    train, config = toy_stage("tokenizer", fashion_folder, tmp_path)
    rarely = dict.fromkeys(("log_every", "evaluate_every", "checkpoint_every"), NEVER)
    model = {"quantizer": quantizer, **({"quantizer_options": {"decay": 0.9}} if quantizer == "transport" else {})}
    config = changed(config, batch_size=4, model=changed_model(config.model, **model), **rarely)
    with device_called(name):
        train(config)
    assert [row["skipped_steps"] for row in rows(config, "train")] == [2]
    before, after, later = states
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(after, later, strict=True))


def changed_model(model: Any, **changes: Any) -> Any:
    return type(model)(**{**vars(model), **changes})


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_an_optimizer_that_found_something_infinite_leaves_everything_as_it_was(kind: str):
    model = nn.ModuleDict({"layers": nn.ModuleDict({"h": nn.Linear(4, 6)})})
    model = nn.ModuleDict({"prior": model})
    config = PriorTraining(optimizer=kind)  # pyright: ignore[reportArgumentType]
    optimizers: list[Any] = build_optimizers(model, config)
    states = []
    for bad in (0.0, 1.0, 0.0):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, float("nan") if bad else 1.0)
        for optimizer in optimizers:
            optimizer.found_inf = torch.tensor(bad)
            optimizer.step()
        moments = [value for o in optimizers for state in o.state_dict()["state"].values() for value in state.values()]
        states.append([value.clone() for value in [*model.parameters(), *moments]])
    assert all(torch.equal(one, two) for one, two in zip(states[0], states[1], strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(states[1], states[2], strict=True))


def test_a_moving_average_of_codes_starts_when_they_are_drawn():
    """What waits for data holds vectors in their place, which are not averaged with codes."""
    quantizer = VanillaQuantizer(codebook_size=24, codebook_dim=4)
    network = nn.Linear(4, 4)
    model = nn.ModuleList([quantizer, network])
    averages = [WeightAverage(model, 0.9, torch.device("cpu")) for _ in range(2)]
    begun, drawn = network.weight.detach().clone(), quantizer.codebook.detach().clone()
    for step in range(5):
        quantizer(torch.randn(8, 4))
        with torch.no_grad():
            network.weight += 1
        for average, made in zip(averages, (True, torch.tensor(True)), strict=True):
            average.follow(model, made)
            averaged: Any = average.module
            own = averaged[0].codebook.detach()
            if step < 3:
                assert averaged[0].waiting == (step < 2)
                assert torch.equal(own, quantizer.codebook), step
            else:
                assert not torch.equal(own, quantizer.codebook)
                torch.testing.assert_close(own, drawn + (1 - 0.9 ** (step - 2)))
        if step == 2:
            drawn = quantizer.codebook.detach().clone()
            quantizer.set_codes(drawn + 1)
    moved = 1 + 4 - sum(0.9**k for k in range(1, 5))  # the first step begins it, as ever
    for average in averages:
        *_, weight, _ = average.module.parameters()
        torch.testing.assert_close(weight.detach(), begun + moved)


def test_a_moving_average_follows_the_steps_that_were_made():
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 0.5, torch.device("cpu"))
    average.follow(model, True)
    begun = model.weight.detach().clone()
    with torch.no_grad():
        model.weight += 1
    for made, moved in ((False, 0.0), (torch.tensor(False), 0.0), (torch.tensor(True), 0.5), (True, 0.75)):
        average.follow(model, made)
        torch.testing.assert_close(next(average.parameters()).detach(), begun + moved)
