"""Parts of a batch found by trying: `wvq.pipelines.training.micro_batches`, with a memory that is made small."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from toy_runs import assert_equal_runs, changed, toy_stage

from wvq.pipelines.train_prior import train_prior
from wvq.pipelines.training import micro_batches
from wvq.pipelines.training.run import Run
from wvq.prior.loss import TokenLoss
from wvq.tokenizer import InputError


@pytest.fixture
def stage_two(fashion_folder: Path, tmp_path: Path) -> Any:
    return toy_stage("prior", fashion_folder, tmp_path)[1]


@pytest.fixture
def asked() -> list[int]:
    """The sizes of the batches that training was given while `room_for` holds."""
    return []


@pytest.fixture
def room_for(asked: list[int], monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the memory too small for more than so many images."""
    forward = TokenLoss.forward

    def limit(images: int) -> None:
        def checked(model: TokenLoss, codes: torch.Tensor, *others: Any) -> torch.Tensor:
            if model.training:
                asked.append(len(codes))
                if len(codes) > images:
                    torch.empty(2**60)  # the allocator's own error
            return forward(model, codes, *others)

        monkeypatch.setattr(TokenLoss, "forward", checked)

    return limit


def test_a_run_whose_parts_were_found_is_the_one_that_was_given_them(stage_two, room_for, asked):
    given, found = changed(stage_two, "given", gradient_accumulation_steps=4), changed(stage_two, "found")
    train_prior(given)
    room_for(7)
    found = changed(found, gradient_accumulation_steps=0)
    train_prior(found)
    assert asked[:4] == [20, 10, 5, 5]  # the first three are tried
    assert set(asked[3:]) == {5}
    assert json.loads((Path(found.output_dir) / "accumulation.json").read_text()) == {"gradient_accumulation_steps": 4}
    assert_equal_runs(given, found)


def test_a_run_that_goes_on_does_not_try_again(stage_two, room_for, monkeypatch):
    size = dataclasses.replace(stage_two.model, attention_dropout=0.2)  # trying must leave the random numbers alone
    config = changed(stage_two, gradient_accumulation_steps=0, model=size)
    room_for(12)
    whole = changed(config, "whole")
    train_prior(whole)

    def fail(run: Run, step: int, split: str, values: dict[str, float]) -> None:
        if step == 5:
            raise InterruptedError

    def never(*_: Any) -> int:
        raise AssertionError

    with monkeypatch.context() as patch:
        log = Run.log
        patch.setattr(Run, "log", lambda run, step, *rest: (log(run, step, *rest), fail(run, step, *rest)))
        with pytest.raises(InterruptedError):
            train_prior(config)
    monkeypatch.setattr(micro_batches, "fewest_micro_batches", never)
    train_prior(config)
    assert_equal_runs(whole, config)
    given = changed(config, "given", gradient_accumulation_steps=2)
    train_prior(given)
    assert_equal_runs(whole, given)


def test_a_batch_that_cannot_be_cut_further_is_told(stage_two, room_for, asked):
    room_for(0)
    with pytest.raises(
        InputError, match=r"out of memory with a single image of .* tokens at once; try a smaller model"
    ):
        train_prior(changed(stage_two, gradient_accumulation_steps=0))
    assert asked == [20, 10, 5, 4, 2, 1]


def test_fewer_parts_than_none_are_refused(stage_two):
    with pytest.raises(InputError, match="gradient_accumulation_steps is -1; it must be at least 1, or 0 to try"):
        changed(stage_two, gradient_accumulation_steps=-1)


def test_a_sharded_prior_is_not_tried(tmp_path):
    sharded: Any = SimpleNamespace(is_fsdp2=True)
    with pytest.raises(InputError, match=r"gradient_accumulation_steps is 0, .* a sharded prior cannot be tried"):
        micro_batches.accumulation_steps(tmp_path, nn.Module(), 4, 4, sharded)  # pyright: ignore[reportArgumentType]
    assert not list(tmp_path.iterdir())
