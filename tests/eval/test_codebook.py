"""The codebook doctor on codebooks whose illness is known."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from wvq.eval.codebook import draw_codebook_figure, effective_dimension, examine_codebook, examine_tokenizer
from wvq.eval.evaluate import Evaluation
from wvq.eval.features.efficientnet import EfficientNetLite0
from wvq.eval.scores import evaluate_reconstruction
from wvq.pipelines.command_line import main
from wvq.tokenizer import InputError, TokenizerConfig, VQTokenizer
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import load_splits
from wvq.tokenizer.data.decoding import to_model
from wvq.tokenizer.metrics import ReconstructionQuality


def draw(count: int, dim: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def test_a_codebook_of_the_features_law_is_healthy():
    report = examine_codebook(draw(20_000), draw(1024, seed=1))
    assert report.findings == ["nothing is wrong with this codebook"]
    assert report.dead_codes == round(1024 * (1 - report.utilization)) < 20
    assert report.relative_wasserstein_distance < 0.2
    assert 3.5 < report.feature_dimension <= 4


@pytest.mark.parametrize(
    ("features", "codes", "finding"),
    [
        (draw(20_000), draw(64, seed=1) + 4, "unused because they lie elsewhere"),
        (draw(100), draw(64, seed=1), "fewer than 10 features for each code"),
        (draw(20_000), draw(64, seed=1)[torch.arange(64) // 2], "have a twin"),
        (
            draw(20_000) * torch.tensor([1, 0.01, 0.01, 0.01]),
            draw(64, seed=1) * 0.1,
            "less than 40 % of their",
        ),
        (draw(20_000), draw(6, seed=1), "more than 20 % of the features' variance is lost"),
    ],
)
def test_illnesses_are_found(features: Tensor, codes: Tensor, finding: str):
    report = examine_codebook(features, codes)
    assert any(finding in sentence for sentence in report.findings)
    assert finding in str(report)


def test_duplicates_and_dead_codes_are_counted():
    codes = draw(32, seed=1)
    codes[1], codes[2] = codes[0], codes[0] + 1e-5
    codes[3] = 100.0
    report = examine_codebook(draw(20_000), codes)
    assert report.duplicate_codes == 3
    assert report.dead_codes >= 2  # the far one, and of the copies all but one


@pytest.mark.parametrize("shift", [0.0, 100.0])
@pytest.mark.parametrize("dim", [1, 2, 3, 8])
def test_independent_codes_are_no_duplicates_in_any_dimension(dim: int, shift: float):
    torch.manual_seed(0)
    features, codes = torch.randn(50_000, dim) + shift, torch.randn(256, dim) + shift
    assert examine_codebook(features, codes).duplicate_codes <= 2
    codes[:10] = codes[10:20]
    assert 20 <= examine_codebook(features, codes).duplicate_codes <= 22


def test_effective_dimension():
    assert effective_dimension(torch.eye(5)) == pytest.approx(5)
    assert effective_dimension(torch.diag(torch.tensor([3.0, 0, 0]))) == pytest.approx(1)
    assert effective_dimension(torch.zeros(3, 3)) == 1


def test_of_a_tokenizer_equals_its_evaluation(fashion_folder: Path):
    torch.manual_seed(0)
    tokenizer = VQTokenizer(TokenizerConfig(image_size=28, channels=1, patch_size=2, base_channels=8,
                                            channel_multipliers=(1, 1), num_blocks=1, latent_channels=8,
                                            codebook_size=64, codebook_dim=4)).eval()  # fmt: skip
    _, images = load_splits(DataConfig(source=str(fashion_folder), image_size=28, channels=1))
    report = examine_tokenizer(tokenizer, images)
    quality = ReconstructionQuality(64, 4)
    batch = images.__getitems__(list(range(len(images))))["images"]
    with torch.no_grad():
        output = tokenizer(batch / 127.5 - 1)
    indices = output.quantizer.indices
    quality.update(batch, batch, output.features, indices, tokenizer.quantizer.lookup(indices))
    expected = quality.compute()
    assert report.num_features == len(images) * 49
    for name in ("utilization", "perplexity", "quantization_error", "relative_quantization_error"):
        assert getattr(report, name) == pytest.approx(float(expected[name]), rel=1e-3)  # in batches of other sizes
    assert {"findings", "wasserstein_distance"} <= report.as_dict().keys()


@pytest.mark.parametrize("name", ["spherical", "fsq", "gaussian"])
def test_features_are_examined_where_the_codes_lie_with_the_quantizers_own_assignment(name: str, fashion_folder: Path):
    torch.manual_seed(0)
    tokenizer = VQTokenizer(TokenizerConfig(image_size=28, channels=1, patch_size=2, base_channels=8, quantizer=name,
                                            channel_multipliers=(1, 1), num_blocks=1, latent_channels=8,
                                            codebook_size=64, codebook_dim=4)).train()  # fmt: skip
    train, images = load_splits(DataConfig(source=str(fashion_folder), image_size=28, channels=1))
    with torch.no_grad():
        weight = tokenizer.to_codebook.get_parameter("weight")  # features that vary most in one direction
        weight.mul_(torch.tensor([50.0, 5, 1, 1]).view(4, 1, 1, 1))
    tokenizer(to_model(train.__getitems__(list(range(64)))["images"]))  # codes, and statistics, of data
    report = examine_tokenizer(tokenizer, images)
    scores = evaluate_reconstruction(tokenizer.eval(), images, EfficientNetLite0())
    found = tokenizer.encode(to_model(images.__getitems__(list(range(len(images))))["images"]))
    assert report.utilization == len(found.unique()) / 64 == scores.utilization
    for measure in ("perplexity", "quantization_error", "relative_quantization_error"):
        assert getattr(report, measure) == pytest.approx(getattr(scores, measure), rel=1e-3)
    assert report.relative_quantization_error < 1


def test_command(fashion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = TokenizerConfig(image_size=28, channels=1, patch_size=4, base_channels=8, channel_multipliers=(1,),
                             num_blocks=1, latent_channels=8, codebook_size=16, codebook_dim=4)  # fmt: skip
    VQTokenizer(config).save_pretrained(tmp_path / "tokenizer")
    options = [f"--data.source={fashion_folder}", "--data.channels=1", f"--output={tmp_path}/codebook.json"]
    main(["evaluate", f"--tokenizer={tmp_path}/tokenizer", "--codebook=true", *options])
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "codebook.json").read_text())
    assert "codebook of 16 x 4, 4900 features" in printed
    assert all(finding in printed for finding in written["findings"])
    assert (tmp_path / "codebook.png").exists()


def test_images_have_no_codebook():
    with pytest.raises(InputError, match="codebook is true, but images, samples, have none"):
        Evaluation(images="samples", codebook=True)


def test_picture(tmp_path: Path):
    draw_codebook_figure(examine_codebook(draw(500), draw(64, seed=1) + 2), tmp_path / "new" / "codebook.png")
    with Image.open(tmp_path / "new" / "codebook.png") as picture:
        assert picture.width > 500
