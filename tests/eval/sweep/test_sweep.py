"""`wvq sweep`: the scores of its settings, what a second call computes, which images it looks at, what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_evaluations import Tiny, tiny_pipeline_folder
from tiny_pipelines import tiny_pipeline

from wvq.eval import extract_features, score_features
from wvq.eval.features.samples import sample_features
from wvq.eval.perturbation import SomeImages
from wvq.eval.sweep import command
from wvq.eval.sweep.command import Sweep, sweep_pipeline
from wvq.eval.sweep.grid import Grid
from wvq.eval.sweep.scoring import sweep
from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.command_line import parse
from wvq.pipelines.generation import SamplingOptions
from wvq.tokenizer import InputError
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import load_splits

SCORES = ["precision", "is", "class-accuracy"]
ONE = Grid(guidance_scale=(1.0,))


class Counting(Tiny):
    """Counts the images it sees, and stops the program after so many."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.limit = 0, 10**6

    def features(self, images: Any) -> Any:
        self.seen += len(images)
        if self.seen > self.limit:
            raise KeyboardInterrupt
        return super().features(images)


@pytest.fixture(autouse=True)
def extractor(monkeypatch: pytest.MonkeyPatch) -> Counting:
    tiny = Counting()
    monkeypatch.setattr(command, "build_extractor", lambda name, weights: tiny)
    return tiny


@pytest.fixture(scope="module")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline_folder(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def config(pipeline_folder: Path, fashion_folder: Path, tmp_path: Path) -> Sweep:
    return Sweep(
        pipeline=str(pipeline_folder),
        output_dir=str(tmp_path / "sweep"),
        data=DataConfig(source=str(fashion_folder)),
        grid=Grid(guidance_scale=(1.0, 3.0), temperature=(0.5, 1.0)),
        sampling=SamplingOptions(seed=4, batch_size=20),
        num_generated=30,
        num_reference=60,
        scores=SCORES,
    )


def results(config: Sweep) -> dict[str, Any]:
    return json.loads((Path(config.output_dir) / "sweep.json").read_text())


def test_every_setting_has_the_scores_of_its_samples(config: Sweep, extractor: Counting) -> None:
    text = sweep_pipeline(config)
    assert text is not None
    assert extractor.seen == 60 + 4 * 30
    written = results(config)
    pipeline = ClassConditionalPipeline.from_pretrained(config.pipeline)
    train, _ = load_splits(config.data.sized(pipeline.tokenizer.config))
    images = SomeImages(train, 60)
    reference = extract_features(images, Tiny(), progress=False)
    for result in written["results"]:
        setting = SamplingOptions(**result["setting"], seed=4)
        features = sample_features(pipeline, 30, setting, Tiny())
        features = replace(features, logits=Tiny().logits(features.vectors))
        assert result["scores"] == json.loads(json.dumps(score_features(reference, features, ["fid", *SCORES])))
    distances = [result["scores"]["fid"]["value"] for result in written["results"]]
    assert distances == sorted(distances)
    assert len(set(distances)) == 4

    protocol = written["protocol"]
    assert protocol["reference"] == images.description
    assert (protocol["reference"]["split"], protocol["reference"]["fingerprint"]) == ("train", train.fingerprint)
    assert (protocol["num_generated"], protocol["seed"]) == (30, 4)
    assert protocol["extractor"] == Tiny().protocol
    assert (protocol["tokenizer"], protocol["scores"]) == (pipeline.tokenizer.fingerprint, ["fid", *SCORES])

    lines = text.splitlines()
    assert lines[0].split() == ["guidance", "scale", "temperature", "FD[tiny]", "precision[tiny]", "IS[tiny]",
                                "class", "accuracy[tiny]"]  # fmt: skip
    assert lines[1].split()[2] == f"{distances[0]:.4g}"
    arguments = lines[-1].removeprefix("the best setting: wvq sample ").split()
    best = parse("sample", arguments)
    assert (best.pipeline, best.seed) == (config.pipeline, 4)
    assert {name: getattr(best, name) for name in ("guidance_scale", "temperature")}.items() <= (
        written["results"][0]["setting"].items()
    )
    with Image.open(Path(config.output_dir) / "sweep.png") as picture:
        assert min(picture.size) > 500
    assert not (Path(config.output_dir) / "features").exists()

    # In Python, without a folder.
    pipeline_results = list(sweep(pipeline, reference, Tiny(), config.grid.settings(config.sampling), 30))
    by_setting = {(r["setting"]["guidance_scale"], r["setting"]["temperature"]): r for r in written["results"]}
    for one in pipeline_results:
        kept = by_setting[one.setting.guidance_scale, one.setting.temperature]
        assert one.distance == kept["scores"]["fid"]["value"]


def test_what_is_finished_is_not_computed_again(config: Sweep, extractor: Counting) -> None:
    extractor.limit = 60 + 30 + 30 + 29  # stopped in the third setting
    with pytest.raises(KeyboardInterrupt):
        sweep_pipeline(config)
    assert len(results(config)["results"]) == 2
    extractor.seen, extractor.limit = 0, 10**6
    text = sweep_pipeline(config)
    assert extractor.seen == 2 * 30, "the reference's features were kept, too"
    whole = replace(config, output_dir=config.output_dir + "-whole")
    sweep_pipeline(whole)
    assert results(whole) == results(config)

    extractor.seen = 0
    assert sweep_pipeline(config) == text
    assert extractor.seen == 0
    grown = replace(config, grid=replace(config.grid, guidance_scale=(1.0, 2.0)))
    sweep_pipeline(grown)
    assert extractor.seen == 60 + 2 * 30
    assert len(results(config)["results"]) == 6, "those of the grid before stay"


def test_guidance_is_what_is_swept_where_no_list_is_given(config: Sweep) -> None:
    def swept(name: str, **changes: Any) -> list[tuple[float, float]]:
        asked = replace(config, output_dir=f"{config.output_dir}-{name}", scores=[], **changes)
        sweep_pipeline(asked)
        settings = [each["setting"] for each in results(asked)["results"]]
        return sorted((one["guidance_scale"], one["temperature"]) for one in settings)

    assert swept("none", grid=Grid()) == [(1, 1), (1.25, 1), (1.5, 1), (2, 1), (3, 1)]
    guided = SamplingOptions(guidance_scale=2.0)
    assert swept("one", grid=Grid(temperature=(0.5, 1.0)), sampling=guided) == [(2, 0.5), (2, 1)]


def test_an_option_is_a_list_or_the_same_in_all_settings(config: Sweep) -> None:
    guided = SamplingOptions(guidance_scale=2.0)
    with pytest.raises(
        InputError, match=r"guidance_scale is 2\.0 in sampling and \(1\.0, 3\.0\) in grid; give it in one"
    ):
        replace(config, sampling=guided)
    with pytest.raises(
        InputError, match=r"2\.0 in sampling and \(1\.0, .* 3\.0\) in the grid that a sweep without lists has"
    ):
        replace(config, sampling=guided, grid=Grid())


def test_test_images_are_looked_at_only_when_told(config: Sweep) -> None:
    one = replace(config, grid=ONE, scores=[])
    sweep_pipeline(one)
    told = replace(one, split="evaluation", output_dir=config.output_dir + "-evaluation")
    sweep_pipeline(told)
    _, evaluation = load_splits(replace(config.data, image_size=28, channels=3))
    assert results(told)["protocol"]["reference"]["fingerprint"] == evaluation.fingerprint
    assert results(one)["protocol"]["reference"]["split"] == "train"
    with pytest.raises(InputError, match=r"holds a sweep with reference\..* this one has"):
        sweep_pipeline(replace(told, output_dir=one.output_dir))


def test_a_folder_of_something_else_is_refused(config: Sweep, extractor: Counting, tmp_path: Path) -> None:
    sweep_pipeline(replace(config, grid=ONE))
    extractor.seen = 0
    for changes, name in (
        ({"sampling": SamplingOptions(seed=5)}, "seed = 4, this one has 5"),
        ({"num_generated": 40}, "num_generated = 30, this one has 40"),
        ({"scores": []}, "scores = "),
        ({"output_dir": str(tmp_path)}, "holds 'sweep' and no sweep.json"),
    ):
        with pytest.raises(InputError, match=name):
            sweep_pipeline(replace(config, **changes))
    (Path(config.output_dir) / "sweep.json").write_text("[]")
    with pytest.raises(InputError, match=r"sweep\.json is no sweep\.json of a sweep"):
        sweep_pipeline(config)
    assert extractor.seen == 0


def test_bad_options_are_refused_before_a_pass(config: Sweep, extractor: Counting) -> None:
    with pytest.raises(InputError, match="scores has psnr; valid are fid"):
        replace(config, scores=["psnr"])
    with pytest.raises(InputError, match="a Fréchet distance of 12 generated images in 12 dimensions"):
        sweep_pipeline(replace(config, num_generated=12))
    pipeline = ClassConditionalPipeline.from_pretrained(config.pipeline)
    reference: Any = None
    with pytest.raises(InputError, match=r"settings have the seeds \[0, 1\]"):
        next(sweep(pipeline, reference, extractor, [SamplingOptions(), SamplingOptions(seed=1)], 30))
    for changes, message in (
        ({"grid": Grid(num_passes=(0, 8))}, "num_passes is 8; a prior of raster order draws a token in each pass, 49"),
        ({"sampling": SamplingOptions(guidance_interval=(0, 50))}, r"guidance_interval is \(0, 50\); valid are .* 49"),
    ):
        with pytest.raises(InputError, match=message):
            sweep_pipeline(replace(config, **changes))
    assert extractor.seen == 0
    assert not Path(config.output_dir).exists()


def test_a_prior_without_classes_is_swept_without_guidance(config: Sweep, extractor: Counting, tmp_path: Path) -> None:
    tiny_pipeline(num_classes=0, image_size=28).save_pretrained(tmp_path / "plain")
    plain = replace(config, pipeline=str(tmp_path / "plain"), grid=Grid(), scores=[])
    with pytest.raises(InputError, match="guidance was asked of a prior without classes"):
        sweep_pipeline(replace(plain, grid=config.grid))
    assert extractor.seen == 0
    assert not Path(plain.output_dir).exists()
    sweep_pipeline(plain)
    assert [each["setting"]["guidance_scale"] for each in results(plain)["results"]] == [1]
