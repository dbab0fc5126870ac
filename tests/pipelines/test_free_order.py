"""A pipeline whose prior draws in any order: through Python, diffusers, the sweep's options and the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipelines import NAMES, tiny_pipeline, tiny_tokenizer

from wvq.eval.sweep.grid import Grid
from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.command_line import main
from wvq.pipelines.generation import SamplingOptions, sample_images
from wvq.pipelines.sharing.diffusers_pipeline import DiffusersPipeline
from wvq.prior import PriorConfig, build_prior
from wvq.prior.order.passes import spread_order
from wvq.tokenizer import InputError


def free_pipeline() -> Any:
    tokenizer = tiny_tokenizer()
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "token_order": "random"}
    prior: Any = build_prior(PriorConfig(**sizes, num_codes=32, num_tokens=16, num_classes=3))
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter *= 12 if parameter.ndim == 2 else 1  # else all classes are nearly uniform
    pipeline = ClassConditionalPipeline(tokenizer, prior, NAMES)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("passes", Grid(num_passes=(0, 1, 5)).settings(SamplingOptions(guidance_scale=2.0)))
def test_image_i_is_the_same_in_any_batch(passes: SamplingOptions) -> None:
    pipeline, labels = free_pipeline(), torch.arange(5) % 3
    images = torch.cat(list(sample_images(pipeline, labels, passes)))
    by_two = SamplingOptions(**{**vars(passes), "batch_size": 2})
    assert torch.equal(torch.cat(list(sample_images(pipeline, labels, by_two))), images)
    assert len(images.flatten(1).unique(dim=0)) > 1


def test_the_number_of_passes_changes_what_is_drawn() -> None:
    pipeline = free_pipeline()
    drawn = [pipeline([0] * 8, num_passes=n, temperature=0.0, output_type="latent").images for n in (1, 16)]
    assert not torch.equal(*drawn)
    assert torch.equal(pipeline([0] * 8, temperature=0.0, output_type="latent").images, drawn[1])


def test_few_passes_know_the_shape_of_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, seen = free_pipeline(), []
    monkeypatch.setattr(
        type(pipeline.tokenizer.config), "grid_shape", property(lambda config: (8, 2)), raising=True
    )  # of as many tokens as 4 x 4
    pipeline(
        [0], num_passes=4, output_type="latent",
        callback_on_step_end=lambda pipeline, position, total, tokens: seen.append(tokens["tokens"][0] >= 0),
    )  # fmt: skip
    first = seen[1].nonzero().flatten()
    assert set(first.tolist()) == set(spread_order(16, grid_shape=(8, 2))[: len(first)].tolist())
    assert set(first.tolist()) != set(spread_order(16)[: len(first)].tolist())


def test_known_tokens_below_a_hole_stay_and_guide_it() -> None:
    pipeline = free_pipeline()
    known = torch.randint(32, (1, 4, 4), generator=torch.Generator().manual_seed(0)).repeat(12, 1, 1)
    known[:, 1] = -1
    known[:, 3] = torch.arange(12)[:, None]
    drawn = pipeline([0] * 12, known_tokens=known, temperature=0.0, num_passes=2, output_type="latent").images
    assert torch.equal(drawn[:, [0, 2, 3]], known[:, [0, 2, 3]])
    assert len(drawn[:, 1].unique(dim=0)) > 1


def test_diffusers_draws_the_same() -> None:
    pipeline = free_pipeline()
    options: dict[str, Any] = {"num_passes": 4, "guidance_scale": 2.0, "output_type": "latent"}
    names = {str(number): name for number, name in enumerate(NAMES)}
    other: Any = DiffusersPipeline(pipeline.tokenizer, pipeline.prior, names)
    other.set_progress_bar_config(disable=True)
    ours: Any = pipeline([0, 1], generator=torch.Generator().manual_seed(0), **options).images
    assert torch.equal(ours, other([0, 1], generator=torch.Generator().manual_seed(0), **options).images)


def test_the_command_draws_in_passes_and_refuses_them_of_a_raster_prior(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    free_pipeline().save_pretrained(tmp_path / "free")
    arguments = ["--num-passes", "3", "--num-images-per-class", "1", "--output-dir"]
    main(["sample", "--pipeline", str(tmp_path / "free"), *arguments, str(tmp_path / "samples")])
    assert json.loads((tmp_path / "samples" / "samples.json").read_text())["num_passes"] == 3
    tiny_pipeline().save_pretrained(tmp_path / "raster")
    with pytest.raises(SystemExit):
        main(["sample", "--pipeline", str(tmp_path / "raster"), *arguments, str(tmp_path / "none")])
    assert "num_passes is 3; a prior of raster order draws a token in each pass, 16 in all" in capsys.readouterr().err


def test_passes_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="num_passes is -1; it must be at least 0"):
        SamplingOptions(num_passes=-1)
    with pytest.raises(InputError, match="num_passes is 17; it must be from 1 to num_tokens, 16"):
        free_pipeline()([0], num_passes=17)
