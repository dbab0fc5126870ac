"""`wvq transplant`: a run like any other, its report, and the road from what comes out of it to samples and scores."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import write_fashion_folder
from processes import run
from toy_autoencoders import saved_autoencoder
from toy_runs import assert_close_runs, assert_equal_runs, changed, rows

from wvq.eval.transplant import Transplant, transplant_and_report
from wvq.pipelines.adversarial.command import TokenizerRefinement, refine_tokenizer
from wvq.pipelines.command_line import main
from wvq.pipelines.training.run import Run
from wvq.pipelines.transplant.training import UNTRAINED, TransplantTraining, transplant
from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.data import DataConfig
from wvq.tokenizer.quantizers.base import Quantizer


def toy_transplant(source: Path, folder: Path, name: str = "AutoencoderKL", **changes: Any) -> TransplantTraining:
    torch.set_num_threads(1)
    saved_autoencoder(name, folder / "autoencoder")
    options: dict[str, Any] = {
        "steps": 8, "batch_size": 20, "warmup_steps": 2, "log_every": 1, "evaluate_every": 4, "checkpoint_every": 3,
        "codebook_size": 64, "projector_channels": 8, "evaluation_images": 40,
        "autoencoder": str(folder / "autoencoder"), "output_dir": str(folder / "run"),
        "latents_dir": str(folder / "latents"), "data": DataConfig(source=str(source), image_size=28),
    }  # fmt: skip
    return TransplantTraining(**options | changes)


def test_a_resumed_transplant_is_the_uninterrupted_one(fashion_folder: Path, tmp_path: Path, monkeypatch):
    config = toy_transplant(fashion_folder, tmp_path, ema_decay=0.8, gradient_accumulation_steps=2)
    config = changed(config, data=dataclasses.replace(config.data, horizontal_flip=True))
    straight = changed(config, "straight")
    transplant(straight)
    log = Run.log

    def log_and_break(self: Run, step: int, split: str, values: dict[str, float]) -> None:
        log(self, step, split, values)
        if step == 5:
            raise InterruptedError

    monkeypatch.setattr(Run, "log", log_and_break)
    with pytest.raises(InterruptedError):
        transplant(config)
    monkeypatch.undo()
    torch.manual_seed(12345)
    transplant(config)
    assert_equal_runs(config, straight)


def trained(configs: list[TransplantTraining]) -> None:
    for config in configs:
        transplant(config)


@pytest.mark.slow
def test_two_processes_transplant_what_one_does(fashion_folder: Path, tmp_path: Path):
    short: dict[str, Any] = {"steps": 30, "batch_size": 8, "evaluate_every": 30, "checkpoint_every": 30}
    quantizers: list[dict[str, Any]] = [{}, {"quantizer": "product"}, {"quantizer": "wasserstein"}]
    runs = []
    for world in (1, 2):
        folder = tmp_path / str(world)
        one = toy_transplant(fashion_folder, folder, **short)
        runs.append([changed(one, f"run-{n}", **options) for n, options in enumerate(quantizers)])
        run(world, trained, runs[-1])
    for single, double in zip(*runs, strict=True):
        assert_close_runs(single, double, metrics=1e-3, rtol=1e-3, atol=1e-4)


def test_before_the_first_step_codes_lie_where_the_latents_do(fashion_folder: Path, tmp_path: Path):
    config = toy_transplant(fashion_folder, tmp_path, steps=1, warmup_steps=0)
    transplant(config)
    first = VQTokenizer.from_pretrained(Path(config.output_dir) / UNTRAINED)
    assert isinstance(first.quantizer, Quantizer)
    latents = torch.cat(_latents(Path(config.latents_dir)))
    features = first.to_codebook(latents).movedim(1, -1).flatten(0, -2)
    codes = first.quantizer.codebook
    torch.testing.assert_close(codes.mean(dim=0), features.mean(dim=0), rtol=0, atol=1e-3)
    torch.testing.assert_close(codes.T.cov(), features.T.cov(), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(features.square().mean(), torch.tensor(1.0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(first.from_codebook(first.to_codebook(latents)), latents, rtol=1e-3, atol=1e-4)


def _latents(folder: Path) -> list[torch.Tensor]:
    from safetensors.torch import load_file

    return [load_file(file)["latents"] for file in sorted(folder.glob("*/*.safetensors"))]


def test_latents_are_encoded_once(fashion_folder: Path, tmp_path: Path, monkeypatch):
    config = toy_transplant(fashion_folder, tmp_path, steps=2, warmup_steps=0)
    transplant(config)
    monkeypatch.setattr("wvq.pipelines.transplant.encode_latents._encode", lambda *_: pytest.fail("encoded again"))
    transplant(changed(config, "another", quantizer="vanilla"))


def test_training_lowers_the_loss_and_the_report_has_three_rows(fashion_folder: Path, tmp_path: Path):
    config = toy_transplant(fashion_folder, tmp_path, "VQTokenizer", steps=60, codebook_size=16, learning_rate=3e-3)
    text = transplant_and_report(Transplant(**vars(config)))
    assert text is not None
    losses = [row["latent_loss"] for row in rows(config, "train")]
    assert losses[-1] < 0.9 * losses[0]
    report = json.loads((Path(config.output_dir) / "report.json").read_text())
    alone, first, last = report["rows"].values()
    assert alone.keys() == {"psnr", "ssim"}
    assert first["relative_quantization_error"] > last["relative_quantization_error"]
    assert report["autoencoder"]["class_name"] == "VQTokenizer"
    assert len(text.splitlines()) == 5


def test_another_autoencoder_is_another_run(fashion_folder: Path, tmp_path: Path):
    config = toy_transplant(fashion_folder, tmp_path, steps=2, warmup_steps=0)
    transplant(config)
    moved = tmp_path / "moved"
    (tmp_path / "autoencoder").rename(moved)
    assert transplant(changed(config, autoencoder=str(moved))) == Path(config.output_dir) / "model"
    saved_autoencoder("VQModel", tmp_path / "autoencoder")
    with pytest.raises(InputError, match="holds a run with autoencoder = "):
        transplant(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"channels": 3}}, "data.channels is 3; the autoencoder takes 1"),
        ({"codebook_size": 10**6}, "codebook_size is 1000000; the training images have .* latents"),
        ({"sha256": "0" * 64}, "sha256 is 000"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str, fashion_folder: Path, tmp_path: Path):
    config = toy_transplant(fashion_folder, tmp_path)
    if "data" in changes:
        changes = {"data": dataclasses.replace(config.data, **changes["data"])}
    with pytest.raises(InputError, match=message):
        transplant(changed(config, **changes))
    assert not (Path(config.output_dir) / "model").exists()


def test_its_decoder_is_refined(fashion_folder: Path, tmp_path: Path):
    source = str(transplant(toy_transplant(fashion_folder, tmp_path, steps=1, warmup_steps=0)))
    refinement = TokenizerRefinement(
        tokenizer=source, output_dir=str(tmp_path / "refined"), data=DataConfig(source=str(fashion_folder)), steps=2,
        batch_size=4, warmup_steps=0, evaluation_images=8, perceptual_weight=0.0, adversarial_weight=0.0, ema_decay=0.0,
    )  # fmt: skip
    refined = VQTokenizer.from_pretrained(refine_tokenizer(refinement)).state_dict()
    before = VQTokenizer.from_pretrained(source).state_dict()
    moved = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, refined[name])}
    assert moved == {"decoder", "from_codebook"}


def test_from_an_autoencoder_to_samples_and_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_fashion_folder(tmp_path / "images")
    config = toy_transplant(tmp_path / "images", tmp_path, "AutoencoderTiny", steps=2, warmup_steps=0)
    tokenizer = str(transplant(config))
    prior = str(tmp_path / "prior")
    main([
        *("train-prior", "--tokenizer", tokenizer, "--data.source", str(tmp_path / "images"), "--output-dir", prior),
        *("--tokens-dir", str(tmp_path / "tokens"), "--steps", "2", "--batch-size", "4", "--sample-every", "0"),
        *("--model.hidden-size", "16", "--model.num-layers", "1", "--model.num-heads", "2"),
    ])  # fmt: skip
    pipeline = f"{prior}/pipeline"
    samples = str(tmp_path / "samples")
    main(["sample", "--pipeline", pipeline, "--num-images-per-class", "1", "--output-dir", samples])
    assert list(Path(samples).rglob("*.png"))
    main([
        *("evaluate", "--tokenizer", tokenizer, "--data.source", str(tmp_path / "images")),
        *("--extractor", "efficientnet-lite0", "--allow-few-images", "true"),
    ])  # fmt: skip
    assert "rFD[efficientnet-lite0]" in capsys.readouterr().out
