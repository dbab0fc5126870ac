"""The guidance scale of each position: `wvq.prior.guidance`."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wvq.prior import PriorConfig, build_prior, sample_tokens
from wvq.prior.guidance import guidance_scales
from wvq.tokenizer import InputError


def test_schedules_are_what_their_names_say():
    assert guidance_scales(3.0, 4) == [3.0] * 4
    assert guidance_scales(3.0, 4, "linear") == [1.5, 2.0, 2.5, 3.0]
    assert guidance_scales(3.0, 2, "cosine") == pytest.approx([2.0, 3.0])
    assert guidance_scales(3.0, 4, interval=(1, 3)) == [1.0, 3.0, 3.0, 1.0]


@given(scale=st.floats(0, 20), num_tokens=st.integers(1, 300), schedule=st.sampled_from(["linear", "cosine"]))
def test_a_schedule_goes_steadily_from_no_guidance_to_the_scale(scale, num_tokens, schedule):
    distances = [abs(s - 1) for s in guidance_scales(scale, num_tokens, schedule)]
    assert distances == sorted(distances)
    assert math.isclose(distances[-1], abs(scale - 1), abs_tol=1e-12)


def test_sampling_follows_the_schedule():
    torch.manual_seed(0)
    model: Any = build_prior(
        PriorConfig(hidden_size=32, num_layers=1, num_heads=2, num_codes=50, num_tokens=8, num_classes=2)
    )
    with torch.no_grad():
        model.model.embed_tokens.weight *= 60
        model.lm_head.weight *= 20

    def draw(**options) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return sample_tokens(model, torch.arange(16) % 2, 8, 50, generator=generator, **options)

    plain, guided = draw(), draw(guidance_scale=4.0)
    late = draw(guidance_scale=4.0, guidance_interval=(3, 8))
    assert torch.equal(late[:, :3], plain[:, :3])
    assert not torch.equal(late, plain)
    early = draw(guidance_scale=4.0, guidance_interval=(0, 3))
    assert torch.equal(early[:, :3], guided[:, :3])
    assert not torch.equal(early, guided)
    rising = draw(guidance_scale=4.0, guidance_schedule="linear")
    assert not torch.equal(rising, guided)
    assert not torch.equal(rising, draw(guidance_scale=4.0, guidance_schedule="cosine"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": -1.0}, r"guidance_scale is -1.0; it must be finite and at least 0"),
        ({"scale": math.nan}, r"guidance_scale is nan"),
        ({"scale": math.inf}, r"guidance_scale is inf"),
        ({"schedule": "steep"}, r"guidance_schedule is 'steep'; valid are constant, linear, cosine"),
        ({"interval": (2, 2)}, r"guidance_interval is \(2, 2\); valid are 0 <= first < end <= num_tokens = 8"),
        ({"interval": (0, 9)}, r"guidance_interval is \(0, 9\)"),
        ({"interval": (-1, 3)}, r"guidance_interval is \(-1, 3\)"),
    ],
)
def test_bad_guidance_is_named(options, message):
    with pytest.raises(InputError, match=message):
        guidance_scales(**{"scale": 2.0, "num_tokens": 8} | options)
