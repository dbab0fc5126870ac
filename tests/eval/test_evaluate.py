"""`wvq evaluate`: from what is on the disk to a line and a JSON file, and the messages where it cannot be done."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_evaluations import Tiny, save, tiny_pipeline_folder
from torch import Tensor

from wvq.eval import ImageFolder, evaluate_reconstruction, extract_features, score_features
from wvq.eval import evaluate as command
from wvq.eval.evaluate import Evaluation, evaluate
from wvq.pipelines.command_line import main, parse
from wvq.pipelines.generation import SamplingOptions
from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import load_splits

SAMPLING = SamplingOptions(batch_size=40)


def scored(config: Evaluation) -> str:
    """The lines that the command prints."""
    text = evaluate(config)
    assert text is not None
    return text


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command, "build_extractor", lambda name, weights: Tiny())
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline_folder(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def data(fashion_folder: Path) -> DataConfig:
    return DataConfig(source=str(fashion_folder))


def test_a_pipeline_by_default_has_the_scores_it_always_had(
    pipeline_folder: Path, data: DataConfig, tmp_path: Path
) -> None:
    text = scored(
        Evaluation(
            pipeline=str(pipeline_folder), data=data, num_images=20, sampling=SAMPLING, output=str(tmp_path / "s.json")
        )
    )
    scores = json.loads((tmp_path / "s.json").read_text())
    assert set(scores) == {"reconstruction", "generation"}
    assert "scores" not in scores["reconstruction"]
    tokenizer = VQTokenizer.from_pretrained(pipeline_folder / "tokenizer")
    expected = evaluate_reconstruction(tokenizer, load_splits(data)[1], Tiny(), progress=False)
    for name, value in expected.as_dict().items():
        expected_value = pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
        assert scores["reconstruction"][name] == expected_value
    assert text.startswith(f"rFD[tiny] {expected.reconstruction_frechet_distance:.3f}, PSNR")
    assert "20 generated, 500 reference images" in text
    assert len(text.splitlines()) == 2


def test_further_scores_are_of_the_same_features(pipeline_folder: Path, data: DataConfig, tmp_path: Path) -> None:
    names = ["fid", "kid", "is", "precision", "class-accuracy"]
    text = scored(
        Evaluation(
            pipeline=str(pipeline_folder), data=data, num_images=40, sampling=SAMPLING, scores=names,
            output=str(tmp_path / "s.json"),
        )
    )  # fmt: skip
    scores = json.loads((tmp_path / "s.json").read_text())
    for kind in ("reconstruction", "generation"):
        assert list(scores[kind]["scores"]) == names
        by_metric = scores[kind][f"{kind}_frechet_distance"]
        assert scores[kind]["scores"]["fid"]["value"] == pytest.approx(by_metric, rel=1e-4)
    assert scores["reconstruction"]["scores"]["kid"]["subset_size"] == 100
    assert scores["generation"]["scores"]["kid"]["subset_size"] == 40
    assert "samples: FD[tiny] " in text


def test_a_folder_is_scored_against_the_training_images(
    fashion_images: tuple[Tensor, Tensor], data: DataConfig, tmp_path: Path
) -> None:
    samples = save(fashion_images[0][:50], tmp_path / "samples")
    output = tmp_path / "scores.json"
    text = scored(Evaluation(images=samples, data=data, scores=["fid", "mind"], output=str(output)))
    written = json.loads(output.read_text())["images"]
    reference = extract_features(load_splits(data)[0], Tiny(), progress=False)
    expected = score_features(
        reference, extract_features(ImageFolder(samples), Tiny(), progress=False), ["fid", "mind"]
    )
    assert written["scores"] == json.loads(json.dumps(expected))
    assert written["protocol"]["reference"]["split"] == "train"
    assert written["protocol"]["generated"]["formats"] == {"PNG L": 50}
    assert written["protocol"]["extractor"] == Tiny().protocol
    assert (written["protocol"]["num_reference"], written["protocol"]["num_generated"]) == (500, 50)
    assert text.startswith(f"FD[tiny] {expected['fid']['value']:.4g}, MIND[tiny]")


def test_a_saved_reference_gives_the_same_distance_again(
    fashion_images: tuple[Tensor, Tensor], tmp_path: Path, data: DataConfig
) -> None:
    samples, originals = (save(fashion_images[0][x], tmp_path / f"{x.start}") for x in (slice(0, 60), slice(100, 400)))
    saved, archive = str(tmp_path / "statistics"), str(tmp_path / "statistics.npz")
    options: Any = {"images": samples, "data": data}
    line = scored(Evaluation(reference=originals, save_reference=saved, **options))
    assert scored(Evaluation(reference=saved, **options)) == line
    vectors = extract_features(ImageFolder(originals), Tiny(), progress=False).vectors.double()
    np.savez(archive, mu=vectors.mean(dim=0).numpy(), sigma=vectors.mT.cov().numpy())
    published = scored(Evaluation(reference=archive, **options))
    assert published.split(" (")[0] == line.split(" (")[0]
    assert "an unknown number of reference images" in published
    with pytest.raises(InputError, match="score kid needs the images of the reference"):
        evaluate(Evaluation(reference=saved, scores=["kid"], **options))
    assert not (tmp_path / "runs" / "evaluation").exists(), "refused before a pass"


def test_samples_are_compared_with_the_reference_that_is_asked_for(
    pipeline_folder: Path, data: DataConfig, tmp_path: Path
) -> None:
    about: Any = {"pipeline": str(pipeline_folder), "data": data, "num_images": 20, "sampling": SAMPLING}
    saved, output = str(tmp_path / "statistics"), tmp_path / "s.json"

    def generation(**options: Any) -> dict[str, Any]:
        evaluate(Evaluation(**about, **options, output=str(output)))
        scores = json.loads(output.read_text())
        assert scores["reconstruction"]["protocol"]["reference"]["split"] == "evaluation"
        return scores["generation"]

    of_training = generation(save_reference=saved)
    assert of_training["protocol"]["reference"]["split"] == "train"
    assert set(of_training["protocol"]["sampling"]) > {"tokenizer", "prior", "seed", "guidance_scale"}
    assert generation(reference=saved) == of_training
    of_evaluation = generation(reference_split="evaluation")
    assert of_evaluation["protocol"]["reference"]["split"] == "evaluation"
    assert of_evaluation["num_reference"] == 100
    with pytest.raises(InputError, match=r"save_reference is a, but .* is statistics already"):
        generation(reference=saved, save_reference="a")


def test_kept_features_give_more_scores_without_a_pass(
    fashion_images: tuple[Tensor, Tensor], data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = save(fashion_images[0][:50], tmp_path / "samples")
    about: Any = {"images": samples, "data": data, "resume_dir": str(tmp_path / "parts")}
    evaluate(Evaluation(**about, keep_features=True))
    assert len(list((tmp_path / "parts").iterdir())) == 2
    monkeypatch.setattr(Tiny, "features", None)
    assert scored(Evaluation(**about, scores=["kid"])).startswith("KD[tiny]")
    assert not (tmp_path / "parts").exists()


def test_intervals_are_given_where_asked_for(
    fashion_images: tuple[Tensor, Tensor], data: DataConfig, tmp_path: Path
) -> None:
    samples = save(fashion_images[0][:50], tmp_path / "samples")
    line = scored(Evaluation(images=samples, data=data, scores=["fid", "kid"], resamples=20))
    assert re.fullmatch(r"FD\[tiny\] [\d.]+ \[[\d.]+, [\d.]+\], KD\[tiny\] [\d.e-]+ \+- [\d.e-]+ \(50 .*\)", line)


def test_an_archive_is_scored_and_is_a_reference(fashion_images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    images = fashion_images[0].permute(0, 2, 3, 1).repeat(1, 1, 1, 3).numpy()
    np.savez(tmp_path / "a.npz", images[:300], fashion_images[1][:300].numpy())
    np.savez(tmp_path / "b.npz", images[300:])
    config = Evaluation(images=str(tmp_path / "a.npz"), reference=str(tmp_path / "b.npz"), scores=["coverage"])
    assert scored(config).startswith("coverage[tiny] ")


def test_few_images_are_refused_unless_asked_for(
    fashion_images: tuple[Tensor, Tensor], data: DataConfig, tmp_path: Path, pipeline_folder: Path
) -> None:
    few = save(fashion_images[0][:3], tmp_path / "few")
    with pytest.raises(InputError, match="Fréchet distance of 3 generated images in 12 dimensions is mostly bias; use"):
        evaluate(Evaluation(images=few, data=data))
    assert scored(Evaluation(images=few, data=data, allow_few_images=True)).startswith("FD[tiny]")
    assert scored(Evaluation(images=few, data=data, scores=["kid"])).startswith("KD[tiny]")
    with pytest.raises(InputError, match="of 12 generated images in 12 dimensions"):
        evaluate(Evaluation(pipeline=str(pipeline_folder), data=data, num_images=12))


def test_a_reference_of_another_size_is_refused_with_the_difference(
    fashion_images: tuple[Tensor, Tensor], data: DataConfig, tmp_path: Path
) -> None:
    samples, saved = save(fashion_images[0][:50], tmp_path / "samples"), str(tmp_path / "statistics")
    evaluate(Evaluation(images=samples, data=data, save_reference=saved))
    protocol = json.loads((tmp_path / "statistics" / "protocol.json").read_text())
    protocol["dataset"]["image_size"] = 64
    (tmp_path / "statistics" / "protocol.json").write_text(json.dumps(protocol))
    with pytest.raises(InputError, match="another protocol than the images: image_size is 64 there and 28 here"):
        evaluate(Evaluation(images=samples, reference=saved))
    large = tmp_path / "large"
    large.mkdir()
    Image.new("L", (32, 32)).save(large / "a.png")
    with pytest.raises(InputError, match="another protocol than the images: image_size is 32 there and 28 here"):
        evaluate(Evaluation(images=samples, reference=str(large)))
    protocol["dataset"]["image_size"] = 28
    protocol["extractor"]["resize"] = "299x299"
    (tmp_path / "statistics" / "protocol.json").write_text(json.dumps(protocol))
    with pytest.raises(InputError, match="another extractor: resize is '299x299' there and 'none' here"):
        evaluate(Evaluation(images=samples, reference=saved))


def test_images_of_data_are_as_large_as_those_that_are_scored(
    fashion_images: tuple[Tensor, Tensor], data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small").mkdir()
    for index, image in enumerate(fashion_images[0][:4]):
        Image.fromarray(image[0].numpy()).resize((16, 16)).save(tmp_path / "small" / f"{index}.png")
    asked: list[DataConfig] = []

    def note(config: Evaluation) -> Any:
        asked.append(config.data)
        raise InputError("that is enough")

    monkeypatch.setattr(command, "open_reference", note)
    for image_size in (None, 20):
        with pytest.raises(InputError, match="enough"):
            evaluate(Evaluation(images=str(tmp_path / "small"), data=replace(data, image_size=image_size)))
    assert [config.image_size for config in asked] == [16, 20]


def test_options_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(InputError, match="tokenizer is None, pipeline is None and images is None; give one"):
        Evaluation()
    with pytest.raises(InputError, match="tokenizer is a, pipeline is None and images is b; give one"):
        Evaluation(tokenizer="a", images="b")
    with pytest.raises(
        InputError, match="reference is c, but reconstructions of a tokenizer are compared with the very images"
    ):
        Evaluation(tokenizer="a", reference="c")
    with pytest.raises(InputError, match="reference_split is evaluation, but reference is c; give one"):
        Evaluation(images="a", reference="c", reference_split="evaluation")
    for resamples, least in ((-1, "at least 0"), (1, "at least 2")):
        with pytest.raises(InputError, match=f"resamples is {resamples}; .*{least}"):
            Evaluation(images="a", reference="b", resamples=resamples)
    with pytest.raises(InputError, match="scores has fdi; valid are fid, sfid, fid-infinity, kid"):
        Evaluation(images="a", scores=["fdi"])
    for data in (DataConfig(source=""), DataConfig(source="", image_size=64)):  # as the command line has it by default
        with pytest.raises(InputError, match=r"images is a, but there is nothing to compare them with; give reference"):
            Evaluation(images="a", data=data)
    with pytest.raises(InputError, match="there is nothing to compare them with"):
        Evaluation(images="a", reference_split="evaluation")
    assert Evaluation(images="a", data=DataConfig()).data.source == "fashion-mnist"
    assert Evaluation(pipeline="a").data == DataConfig()


def test_the_command_line_takes_a_list_of_scores(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = parse("evaluate", ["--images=a", "--scores=[fid,kid]", "--data.source=fashion-mnist"])
    assert config.scores == ["fid", "kid"]
    assert parse("evaluate", ["--tokenizer=a", "--data.image_size=64"]).data == DataConfig(image_size=64)
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", f"--images={tmp_path}", f"--reference={tmp_path}"])
    assert stopped.value.code == 2
    assert "holds no images; valid suffixes are" in capsys.readouterr().err
