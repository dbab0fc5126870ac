"""`wvq compare` (and `wvq demo`): quantizers under one budget, scored alike, in comparison.json and report.html."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.sample import SamplingOptions, sample_images
from wvq.pipelines.train import train_pipeline
from wvq.prior.train import PriorTraining
from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.checkpoints import first_difference
from wvq.tokenizer.data import DataConfig, ImageDataset, load_splits
from wvq.tokenizer.saving import read_json, write_json
from wvq.tokenizer.tokens import Tokenization, tokenize
from wvq.tokenizer.train import TokenizerTraining, train_tokenizer

from .clock import Clock
from .collect import commands, run_report, shared_protocol, table_row
from .extractors import Extractor, build_extractor
from .parallel import run_parallel
from .reference import ReferenceStatistics
from .report import write_report
from .scores import evaluate_generation, evaluate_reconstruction, reference_statistics


@dataclass(frozen=True)
class Method:
    """One row of the comparison: a quantizer and its options."""

    quantizer: str
    """Name of the quantizer."""
    quantizer_options: dict[str, Any] = field(default_factory=dict)
    """Its options; those that are not its own should be the same for every method."""


@dataclass(frozen=True)
class Comparison:
    """Methods x seeds, everything else the same. The same command goes on where it was stopped."""

    output_dir: str = "runs/comparison"
    """Folder of all runs, comparison.json and report.html."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images, for every run."""
    methods: dict[str, Method] = field(
        default_factory=lambda: {name: Method(name) for name in ("vanilla", "wasserstein")}
    )
    """What is compared, by the name it has in the table."""
    seeds: tuple[int, ...] = (0,)
    """Every method is trained once with each; with the same seed all start from the same weights and codebook."""
    tokenizer: TokenizerTraining = field(default_factory=TokenizerTraining)
    """Training of the tokenizers; output_dir, seed and the quantizer are set for each run."""
    prior: PriorTraining = field(default_factory=PriorTraining)
    """Training of the priors; output_dir, seed and the tokenizer are set for each run."""
    jobs: int = 1
    """Trainings at once, each with its share of the cores."""
    tokenizers_only: bool = False
    """Compare the tokenizers alone, without training priors."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    """How images are drawn for the generation score."""
    num_generated: int = 5_000
    """Images generated for each score, the classes in equal shares."""
    extractor: str = "inception"
    """inception or efficientnet-lite0."""
    extractor_weights: str | None = None
    """File with the extractor's weights, where they are not in the usual place."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(self.seeds))
        if not self.methods or not self.seeds:
            raise InputError(
                f"methods are {list(self.methods)} and seeds {list(self.seeds)}; give at least one of each"
            )
        if self.jobs < 1:
            raise InputError(f"jobs is {self.jobs}; it must be at least 1")
        if self.num_generated < 2:
            raise InputError(f"num_generated is {self.num_generated}; it must be at least 2")
        for name, method in self.methods.items():
            if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
                raise InputError(f"method '{name}' names a folder; use letters, digits, '-', '_' and '.'")
            self.tokenizer_training(
                method, self.seeds[0], Path(self.output_dir)
            )  # checks the quantizer and its options

    def tokenizer_training(self, method: Method, seed: int, folder: Path) -> TokenizerTraining:
        """The training of one tokenizer in `folder`."""
        model = replace(self.tokenizer.model, quantizer=method.quantizer, quantizer_options=method.quantizer_options)
        return replace(self.tokenizer, output_dir=str(folder), data=self.data, model=model, seed=seed)


def compare(config: Comparison) -> Path:
    """Train, sample and score every method with every seed; returns report.html.

    Raises:
        InputError: for data, weights or options that cannot be used, or a folder with another comparison.
    """
    root = Path(config.output_dir)
    claim_folder(root, config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    extractor = build_extractor(config.extractor, config.extractor_weights).to(device)
    _, evaluation_set = load_splits(config.data)
    reference: ReferenceStatistics | None = None

    run_parallel(
        train_both_stages, [(config, name, seed) for seed in config.seeds for name in config.methods], config.jobs
    )
    rows, reports, protocol = [], [], {}
    for seed in config.seeds:
        for name in config.methods:
            folder = root / f"{name}-{seed}"
            clock = Clock(folder / "seconds.json")
            pipeline = None
            if not config.tokenizers_only:
                pipeline = ClassConditionalPipeline.from_pretrained(folder / "prior" / "pipeline").to(device)
            tokenizer = pipeline.tokenizer if pipeline else VQTokenizer.from_pretrained(folder / "tokenizer" / "model")
            tokenizer.to(device)

            if not (folder / "scores.json").exists():
                reference = reference or reference_statistics(evaluation_set, extractor)
                scores = score(config, tokenizer, pipeline, evaluation_set, reference, extractor, clock)
                write_json(folder / "scores.json", scores)
            scores = read_json(folder / "scores.json")
            rows.append(table_row(name, seed, scores, folder, clock.seconds))
            reports.append(run_report(name, seed, scores, folder, tokenizer, pipeline, evaluation_set, config.sampling))
            protocol = protocol or shared_protocol(config, scores)

    comparison = {"protocol": protocol, "rows": rows}
    write_json(root / "comparison.json", comparison)
    write_report(root / "report.html", comparison, reports, commands(config))
    return root / "report.html"


def claim_folder(root: Path, config: Comparison) -> None:
    """Write recipe.json into the comparison's folder, or check that the one there is the same.

    Raises:
        InputError: if the folder holds another comparison.
    """
    recipe = json.loads(json.dumps(asdict(config)))
    del recipe["jobs"]  # how many at once changes nothing but the time
    if not (root / "recipe.json").exists():
        write_json(root / "recipe.json", recipe)
        return
    difference = first_difference(read_json(root / "recipe.json"), recipe)
    if difference:
        name, old, new = difference
        raise InputError(
            f"{root} holds a comparison with {name} = {old}, this one has {new}; give it another --output-dir or "
            f"remove that folder"
        )


def train_both_stages(config: Comparison, name: str, seed: int) -> None:
    """Train a tokenizer, encode the data and train a prior on the tokens, each unless that has been done."""
    folder = Path(config.output_dir) / f"{name}-{seed}"
    tokenizer = train_tokenizer(config.tokenizer_training(config.methods[name], seed, folder / "tokenizer"))
    if config.tokenizers_only:
        return
    tokens_dir = str(Path(config.output_dir) / "tokens")
    if not (folder / "prior").exists():
        with Clock(folder / "seconds.json").measure("tokens"):
            tokenize(Tokenization(str(tokenizer), config.data, tokens_dir))
    train_pipeline(
        replace(
            config.prior,
            output_dir=str(folder / "prior"),
            tokenizer=str(tokenizer),
            data=config.data,
            tokens_dir=tokens_dir,
            seed=seed,
        )
    )


def score(
    config: Comparison,
    tokenizer: VQTokenizer,
    pipeline: ClassConditionalPipeline | None,
    evaluation_set: ImageDataset,
    reference: ReferenceStatistics,
    extractor: Extractor,
    clock: Clock,
) -> dict[str, Any]:
    """All scores of one run, with their protocols and the histogram of its codes."""
    with clock.measure("evaluation"):
        reconstruction = evaluate_reconstruction(tokenizer, evaluation_set, extractor, reference)
    scores: dict[str, Any] = {
        "reconstruction": reconstruction.as_dict(),
        "code_histogram": reconstruction.code_histogram.tolist(),
        "generation": None,
    }
    if pipeline is not None:
        labels = torch.arange(config.num_generated) % max(1, pipeline.prior.config.num_classes)
        images = sample_images(pipeline, labels, config.sampling)
        about = {**asdict(config.sampling), "classes": "in equal shares", "tokenizer": tokenizer.fingerprint}
        generation = evaluate_generation(
            clock.each("sampling", images), reference, extractor, sampling=about, progress=False
        )
        scores["generation"] = generation.as_dict()
    return scores
