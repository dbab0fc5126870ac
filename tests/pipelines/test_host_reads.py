"""The training loops and sampling hardly ever make the host wait for the device."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from host_reads import counted_waits
from other_device import NO_GPU, device_called
from tiny_pipelines import tiny_prior
from toy_runs import toy_stage

from wvq.pipelines.training.loop import Loop
from wvq.prior import loss, sample_tokens
from wvq.tokenizer.errors import NonFiniteError

STEPS = 20
DEVICES = ["elsewhere", pytest.param("gpu", marks=[pytest.mark.gpu, NO_GPU])]
LOOPS: dict[str, dict[str, Any]] = {
    "tokenizer, wasserstein": {},
    "tokenizer, wasserstein by transport": {"quantizer_options": {"alignment": "transport"}},
    "tokenizer, transport by averages": {"quantizer": "transport", "quantizer_options": {"decay": 0.9}},
    "tokenizer, vanilla": {"quantizer": "vanilla"},
    "tokenizer, ema": {"quantizer": "ema"},
    "tokenizer, online": {"quantizer": "online"},
    "tokenizer, muon": {"optimizer": "muon"},
    "tokenizer, in micro-batches": {"gradient_accumulation_steps": 2, "ema_decay": 0.9},
    "prior, muon": {"optimizer": "muon", "sample_every": 0},
    "prior, adamw": {"optimizer": "adamw", "sample_every": 0, "ema_decay": 0.9, "label_smoothing": 0.1},
    "prior, of sampled ids": {"optimizer": "adamw", "sample_every": 0, "sampled_ids": 6},
}


SHOWN = ("tokenizer, wasserstein by transport", "prior, muon")  # the others take longer together


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("case", [pytest.param(c, marks=[] if c in SHOWN else [pytest.mark.slow]) for c in LOOPS])
def test_a_loop_waits_for_the_device_once_in_ten_steps(
    case: str, name: str, fashion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    train, config = toy_stage(case.split(",")[0], fashion_folder, tmp_path)
    options = {key: value for key, value in LOOPS[case].items() if key.startswith("quantizer")}
    if options:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, **options))
    rarely = dict.fromkeys(("log_every", "evaluate_every", "checkpoint_every"), 10**6)
    others = {key: value for key, value in LOOPS[case].items() if key not in options}
    config = dataclasses.replace(config, steps=STEPS + 2, batch_size=4, **rarely, **others)
    monkeypatch.setattr(loss, "_BLOCK_ENTRIES", 36 * 50)  # four blocks a step
    ends: list[int] = []  # waits so far, at the end of each micro-batch
    batches = Loop.__iter__

    def watched(loop: Loop) -> Iterator[dict[str, torch.Tensor]]:
        for batch in batches(loop):
            yield batch
            ends.append(len(waits))

    monkeypatch.setattr(Loop, "__iter__", watched)
    with device_called(name), counted_waits() as waits:
        train(config)
    parts = config.gradient_accumulation_steps
    first, last = ends[parts - 1], ends[(STEPS + 1) * parts - 1]  # from the end of step 1 to that of step 21
    assert len(ends) == (STEPS + 2) * parts
    assert last - first <= STEPS / 10, Counter(waits[first:last])


@pytest.mark.parametrize("name", DEVICES)
def test_scores_that_are_not_finite_are_told_by_image_and_position(name: str):
    prior: Any = tiny_prior(num_tokens=40)
    with torch.no_grad():
        prior.model.embed_tokens.weight[33] = float("nan")  # of class 1
    with device_called(name) as device, pytest.raises(NonFiniteError, match="image 2 at position 0 are not finite"):
        sample_tokens(prior.to(device), torch.tensor([0, 2, 1]), 40, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", DEVICES)
def test_sampling_waits_for_the_device_at_the_start_and_the_end_alone(name: str):
    prior: Any = tiny_prior(num_tokens=40)
    options: dict[str, Any] = {"guidance_scale": 2.0, "top_k": 9, "top_p": 0.9, "min_p": 0.01}
    positions: list[int] = []
    with device_called(name) as device, counted_waits() as waits:
        prior.to(device)
        sample_tokens(
            prior, torch.tensor([0, 1]), 40, 32, **options, generator=torch.Generator().manual_seed(0),
            on_token=lambda position, tokens: positions.append(len(waits)),
        )  # fmt: skip
    assert positions[-1] - positions[0] <= 40 / 10, Counter(waits[positions[0] : positions[-1]])


def test_every_way_to_wait_is_counted():
    with device_called("elsewhere") as device, counted_waits() as waits:
        x = torch.arange(4.0).to(device, non_blocking=True)
        mask, places = x > 1, (x > 1).long()
        sum_is_moved = x.sum() + 1
        assert not waits
        ways = [
            x[0].item, x.tolist, x.cpu, x.nonzero, x.unique, lambda: x[mask], lambda: bool(mask.any()),
            lambda: int(places[0]), lambda: float(sum_is_moved), lambda: x.masked_select(mask),
            lambda: places.repeat_interleave(places), lambda: places.bincount(), lambda: torch.equal(x, x),
            lambda: torch.linalg.eigh(torch.outer(x, x)), lambda: torch.linalg.svd(torch.outer(x, x)),
            lambda: torch.arange(2).to(device), lambda: torch.tensor([1.0], device=device), lambda: x[torch.arange(2)],
        ]  # fmt: skip
        for way in ways:
            before = len(waits)
            way()
            assert len(waits) > before, way
