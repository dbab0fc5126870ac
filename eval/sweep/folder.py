"""A sweep in a folder: what is scored stays scored, however often it is stopped, and settings may be added later."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.generation import SamplingOptions
from wvq.pipelines.processes import this_process
from wvq.pipelines.training.saved_config import first_difference
from wvq.tokenizer.distributed import on_first_process
from wvq.tokenizer.errors import InputError
from wvq.tokenizer.image_size import size_in_json
from wvq.tokenizer.progress import progress_bar
from wvq.tokenizer.storage.atomic import write_json
from wvq.tokenizer.storage.lock import Lock
from wvq.tokenizer.storage.pretrained import state_sha256
from wvq.tokenizer.storage.untrusted import read_json

from ..features.chunks import Chunks
from ..features.extractor import Extractor
from ..features.feature_set import FeatureSet, extract_features
from ..features.reference import check_same_images
from ..frechet_metric import check_enough_images
from ..perturbation import SomeImages
from .grid import in_words, setting_values, varied_options
from .scoring import ScoredSetting, check_settings, sweep

RESULTS_FILE = "sweep.json"
_PLACE = frozenset({"reference.source"})  # where the images lie; their fingerprint says which they are


@dataclass(frozen=True)
class Yardstick:
    """What all settings are measured with.

    Attributes:
        images: the reference.
        extractor: of features, on its device.
        num_generated: images of each setting.
        scores: further ones than the Fréchet distance.
        allow_few_images: whether to give a Fréchet distance of no more images than dimensions.
        chunks: where the features of the reference are kept.
        features: of the reference, where they have been taken.

    Raises:
        InputError: for too few images.
    """

    images: SomeImages
    extractor: Extractor
    num_generated: int
    scores: tuple[str, ...] = ()
    allow_few_images: bool = False
    chunks: Chunks = field(default_factory=Chunks)
    features: FeatureSet | None = None

    def __post_init__(self) -> None:
        counts = {"generated": self.num_generated, "reference": len(self.images)}
        check_enough_images(counts, self.extractor.num_features, self.allow_few_images)

    @cached_property
    def reference(self) -> FeatureSet:
        """Features of the reference; unless they are there, taken when they are first asked for, on all processes."""
        if self.features is not None:
            return self.features
        with_spatial = "sfid" in self.scores
        return extract_features(self.images, self.extractor, chunks=self.chunks, with_spatial=with_spatial)

    def protocol(self, pipeline: ClassConditionalPipeline, seed: int) -> dict[str, Any]:
        """All that the scores of settings depend on but for the settings, JSON-able."""
        return {
            "tokenizer": pipeline.tokenizer.fingerprint,
            "prior": state_sha256(pipeline.prior),
            "extractor": self.extractor.protocol,
            "reference": self.images.description,
            "num_generated": self.num_generated,
            "classes": "in equal shares",
            "seed": seed,
            "random_numbers": "image i has the same in every setting",
            "scores": ["fid", *self.scores],
        }


def sweep_in_folder(
    folder: Path, pipeline: ClassConditionalPipeline, settings: list[SamplingOptions], yardstick: Yardstick
) -> list[ScoredSetting]:
    """Score the settings that the folder's sweep.json does not have yet; returns all it has, best first.

    Processes share the images, and may be of several commands at once. A collective call.

    Raises:
        InputError: if the folder holds a sweep of anything else but other settings, or other files; as `sweep`.
    """
    check_settings(pipeline, settings)
    config = pipeline.tokenizer.config
    check_same_images(
        yardstick.images.description, {"image_size": size_in_json(config.image_size), "channels": config.channels}
    )
    protocol = yardstick.protocol(pipeline, settings[0].seed)
    finished = on_first_process(lambda: _claim(folder, protocol))
    known = {_only_images(each.setting) for each in finished}
    missing = [setting for setting in settings if _only_images(setting) not in known]
    if not missing:
        return finished
    main = this_process().is_main_process
    options = varied_options([*settings, *(each.setting for each in finished)])
    with progress_bar(total=len(settings), desc="sweep", unit="setting", disable=not main) as bar:
        bar.update(len(settings) - len(missing))
        chunks = Chunks(folder / "features")
        made = sweep(
            pipeline, yardstick.reference, yardstick.extractor, missing, yardstick.num_generated,
            yardstick.scores, yardstick.allow_few_images, chunks,
        )  # fmt: skip
        for scored in made:
            if main:
                chunks.clear()  # all have read them; a kill just now costs this setting, and leaves nothing behind
            finished = on_first_process(partial(_keep, folder, protocol, scored))
            bar.set_postfix_str(f"best {best_in_words(finished, options)}", refresh=False)
            bar.update()
    return finished


def best_in_words(results: Sequence[ScoredSetting], options: Sequence[str]) -> str:
    """ "FID 12.34 at guidance scale 1.5", of results with the best first; the options are those that differ."""
    best = results[0]
    place = f" at {in_words(best.setting, options)}" if options else ""
    return f"{best.scores['fid']['score']} {best.distance:.4g}{place}"


def _only_images(setting: SamplingOptions) -> SamplingOptions:
    """The setting without what changes no image, to be compared with others."""
    return replace(setting, batch_size=SamplingOptions.batch_size)


def _claim(folder: Path, protocol: dict[str, Any]) -> list[ScoredSetting]:
    """The results in a folder of the same sweep; an empty one is made one."""
    path = folder / RESULTS_FILE
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            other = min(entry.name for entry in folder.iterdir())
            raise InputError(f"{folder} holds '{other}' and no {RESULTS_FILE}; give a new or empty output_dir")
        write_json(path, {"protocol": protocol, "results": []})
    content = read_json(path)
    try:
        difference = first_difference(content["protocol"], protocol, _PLACE)
        if not difference:
            return [
                ScoredSetting(SamplingOptions(**each["setting"], seed=protocol["seed"]), each["scores"])
                for each in content["results"]
            ]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no {RESULTS_FILE} of a sweep: {error}") from error
    name, before, now = difference
    raise InputError(f"{folder} holds a sweep with {name} = {before}, this one has {now}; give another output_dir")


def _keep(folder: Path, protocol: dict[str, Any], scored: ScoredSetting) -> list[ScoredSetting]:
    """Add a result to those in the folder; returns all, best first."""
    with Lock(folder / ".lock", wait=True):  # another command may add to them at the same moment
        scored = replace(scored, setting=_only_images(scored.setting))
        before = [each for each in _claim(folder, protocol) if each.setting != scored.setting]
        results = sorted([*before, scored], key=lambda each: each.distance)
        written = [{"setting": setting_values(each.setting), "scores": each.scores} for each in results]
        write_json(folder / RESULTS_FILE, {"protocol": protocol, "results": written})
    return results
