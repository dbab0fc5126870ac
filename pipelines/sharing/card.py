"""`wvq card`: the README.md of a saved pipeline, with all that is known of it, for a person and for the hub."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined

from wvq.pipelines.class_conditional import ClassConditionalPipeline
from wvq.pipelines.generation import SamplingOptions, sample_images
from wvq.pipelines.processes import this_device
from wvq.tokenizer import InputError
from wvq.tokenizer.data.batches import evenly_spaced
from wvq.tokenizer.data.published import HUB_NAMES
from wvq.tokenizer.image_grid import save_grid
from wvq.tokenizer.image_size import size_in_words
from wvq.tokenizer.storage.atomic import write_file
from wvq.tokenizer.storage.untrusted import expand_home, read_json, read_text

from .card_text import BEGIN, END, card_sections
from .scores import eval_results, tokenizers_of

_SHOWN_CLASSES, _SHOWN_SAMPLES = 10, 8
_TO_WRITE = "*Still to be written by the author.*"


@dataclass(frozen=True)
class Card:
    """The card of a saved pipeline. Written again, it keeps what its author wrote and chose."""

    pipeline: str = "runs/pipeline"
    """Folder of the pipeline; README.md and samples.png go there."""
    scores: str | None = None
    """JSON that `wvq evaluate --output` wrote, or scores.json of a run of `wvq compare`."""
    name: str | None = None
    """What the model is called; by default after its images."""
    license: str | None = None
    """Licence of the weights as the hub names it, such as apache-2.0, or other."""
    license_name: str | None = None
    """Name of an other licence."""
    license_link: str | None = None
    """Where an other licence can be read."""

    def __post_init__(self) -> None:
        expand_home(self, "pipeline", "scores")
        if (self.license_name or self.license_link) and self.license not in (None, "other"):
            raise InputError(f"license is '{self.license}'; license_name and license_link belong to 'other'")


def card(config: Card) -> Path:
    """Write README.md and samples.png into a pipeline's folder; returns the path of the first.

    Raises:
        InputError: for a folder or scores that cannot be read, scores of another model, or a README.md that this
            command did not write.
    """
    scores = read_json(Path(config.scores)) if config.scores else None
    pipeline = ClassConditionalPipeline.from_pretrained(config.pipeline)
    return write_card(Path(config.pipeline), pipeline.to(this_device()), scores, config)


def write_card(
    folder: Path, pipeline: ClassConditionalPipeline, scores: Mapping[str, Any] | None, config: Card | None = None
) -> Path:
    """`card` of a pipeline that was saved into `folder`, with its scores if there are any.

    Raises:
        InputError: as `card`.
    """
    config = config or Card()
    path = folder / "README.md"
    old = _read_card(path)
    results = None if scores is None else eval_results(scores)
    if scores is not None and (others := tokenizers_of(scores) - {pipeline.tokenizer.fingerprint}):
        raise InputError(f"the scores are of tokenizer {min(others)[:12]}, not of the one in {folder}")
    options = _sampling(scores)
    data = _metadata(pipeline, results, config, old)
    template = Environment(trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined).from_string(
        (files("wvq.pipelines.sharing") / "card.md.jinja").read_text()
    )
    authors_text = _authors_text(old) or _TO_WRITE
    content = ModelCard(
        template.render(card_data=data.to_yaml(), authors_text=authors_text, **card_sections(pipeline, data, options))
    )
    _draw_samples(pipeline, options, folder / "samples.png")
    write_file(path, str(content).encode())
    return path


def _read_card(path: Path) -> ModelCard | None:
    if not path.exists():
        return None
    try:
        old = ModelCard(read_text(path))
    except ValueError as error:
        raise InputError(f"{path} has metadata that cannot be read: {error}") from error
    if BEGIN not in old.content:
        raise InputError(f"{path} was not written by `wvq card`, which would replace it; move it away")
    return old


def _authors_text(old: ModelCard | None) -> str:
    return old.content.partition(BEGIN)[2].partition(END)[0].strip() if old else ""


def _sampling(scores: Mapping[str, Any] | None) -> SamplingOptions:
    """How the samples that were scored were drawn; plainly, without scores."""
    generation = (scores or {}).get("generation")
    used = generation["protocol"].get("sampling", {}) if generation else {}
    fields = SamplingOptions.__dataclass_fields__.keys()
    return SamplingOptions(**{name: value for name, value in used.items() if name in fields})


def _metadata(
    pipeline: ClassConditionalPipeline, results: list[EvalResult] | None, config: Card, old: ModelCard | None
) -> ModelCardData:
    """What was given, else what the card said before."""
    before = old.data.to_dict() if old else {}
    size = size_in_words(pipeline.tokenizer.config.image_size)
    source = ((pipeline.origin or {}).get("tokenizer", {}).get("data") or {}).get("source")
    known = HUB_NAMES.get(source, source) if source else None
    called = Path(source).name if source else "images"
    licence: dict[str, Any] = {name: getattr(config, name) for name in ("license", "license_name", "license_link")}
    if not any(licence.values()):
        licence = {name: before.get(name) for name in licence}
    results = results or (getattr(old.data, "eval_results", None) if old else None)
    named = config.name or (old.data.get("model_name") if old else None) or _title(old)
    return ModelCardData(
        **licence,
        library_name="wvq",
        pipeline_tag="unconditional-image-generation",
        tags=["wvq", "diffusers", "transformers", "vector-quantization", "autoregressive", "image-generation"],
        datasets=[known] if known and re.fullmatch(r"[\w.-]+/[\w.-]+", known) and not Path(known).exists() else None,
        model_name=named or f"{called}, {size}",
        eval_results=results,
    )


def _title(old: ModelCard | None) -> str | None:
    found = re.search(r"^# (.+)$", old.text, re.MULTILINE) if old else None
    return found[1] if found else None


def _draw_samples(pipeline: ClassConditionalPipeline, options: SamplingOptions, path: Path) -> None:
    """The first images of up to 10 classes, a row each, or without classes as many of any kind."""
    num_classes = pipeline.prior.config.num_classes
    classes = evenly_spaced(num_classes, _SHOWN_CLASSES) if num_classes else torch.zeros(4, dtype=torch.int64)
    labels = classes.repeat_interleave(_SHOWN_SAMPLES)
    images = torch.cat([batch.cpu() for batch in sample_images(pipeline, labels, options)])
    save_grid(images, path, columns=_SHOWN_SAMPLES)
