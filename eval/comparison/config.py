"""What is compared: methods x settings x seeds, everything else the same, under one budget."""

import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from wvq.pipelines.generation import SamplingOptions
from wvq.pipelines.train_prior import PriorTraining
from wvq.pipelines.train_tokenizer import TokenizerTraining
from wvq.tokenizer import InputError
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.storage.untrusted import expand_home

from ..perturbation import check_perturbed_images
from ..sweep.grid import SweepOptions
from .budget import Budget, apply_budget
from .settings import OPTIONS, FieldNames, expand, field_names, option_defaults, value_of, with_values

Stage = Literal["tokenizer", "prior"]
NULL = "null"  # in a setting, of an option whose value is none: there None is an option that a method lacks


def in_setting(value: Any) -> Any:
    """A field's value as settings and tables have it."""
    return NULL if value is None else value


def from_setting(value: Any) -> Any:
    """A field's value that settings and tables have as `value`."""
    return None if value == NULL else value


@dataclass(frozen=True)
class Method:
    """One method of the comparison: a quantizer and its options."""

    quantizer: str
    """Name of the quantizer."""
    quantizer_options: dict[str, Any] = field(default_factory=dict)
    """Its options; those that are not its own should be the same for every method."""


@dataclass(frozen=True)
class OptionGrid:
    """Values of quantizer options among which every method gets its own best, before it is compared."""

    values: dict[str, list[Any]] = field(default_factory=dict)
    """{option: values}: all combinations are tried with every method; one is not varied in an option that it lacks."""
    score: Literal["rfd", "psnr"] = "rfd"
    """What the best is decided by: the Fréchet distance of reconstructions, or PSNR."""
    validation_fraction: float = 0.1
    """Share of the training images that they are tried on; the evaluation images are not looked at."""

    def __post_init__(self) -> None:
        if self.score not in ("rfd", "psnr"):
            raise InputError(f"grid.score is '{self.score}'; valid are rfd and psnr")
        if not 0 < self.validation_fraction < 1:
            raise InputError(
                f"grid.validation_fraction is {self.validation_fraction}; it must be between 0 and 1, exclusive"
            )


@dataclass(frozen=True)
class Cell:
    """One run: a method with a seed, and the values (by full field names) in which it departs from the recipe.

    `group` names the method in its setting; the runs of a group differ in their seeds alone.
    """

    method: str
    values: dict[str, Any]
    seed: int
    group: str

    @property
    def folder(self) -> str:
        return f"{self.group}-{self.seed}"


@dataclass(frozen=True)
class Comparison:
    """Methods x settings x seeds, everything else the same. The same command resumes where it was stopped."""

    output_dir: str = "runs/comparison"
    """Folder of all runs, the tables and report.html."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images, for every run."""
    methods: dict[str, Method] = field(
        default_factory=lambda: {name: Method(name) for name in ("vanilla", "wasserstein")}
    )
    """What is compared, by the name it has in the table."""
    grid: OptionGrid = field(default_factory=OptionGrid)
    """With values every method is given its own best of them, chosen on a validation part of the training images."""
    baseline: str | None = None
    """Method against which the others are tested; by default the first."""
    settings: dict[str, Any] = field(default_factory=dict)
    """An ablation: {study: {field: value or list of values}}. A study trains every method with all combinations of its
    values, such as {codebook: {codebook_size: [256, 1024]}}; fields are those of either training and options of the
    quantizers. What two studies share is trained once, and a method is not varied in an option that it lacks."""
    seeds: tuple[int, ...] = (0,)
    """Every method is trained once with each; with the same seed all start from the same weights and codebook."""
    tokenizer: TokenizerTraining = field(default_factory=TokenizerTraining)
    """Training of the tokenizers; output_dir, seed and the quantizer are set for each run."""
    tokenizer_budget: Budget = field(default_factory=Budget)
    """Images or seconds that each tokenizer is trained on, in place of tokenizer.steps."""
    prior: PriorTraining = field(default_factory=PriorTraining)
    """Training of the priors; output_dir, seed and the tokenizer are set for each run."""
    prior_budget: Budget = field(default_factory=Budget)
    """Images or seconds that each prior is trained on, in place of prior.steps."""
    jobs: int = 1
    """Trainings and scorings at once, each with its share of the cores, and a GPU of its own where there are enough."""
    tokenizers_only: bool = False
    """Compare the tokenizers alone, without training priors."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    """How images are drawn for the generation score."""
    sweep: SweepOptions = field(default_factory=SweepOptions)
    """With a grid every run's images are drawn with that run's own best setting, chosen on training images."""
    num_generated: int = 5_000
    """Images generated for each score, the classes in equal shares."""
    perturbed_images: int = 0
    """Evaluation images whose tokens are perturbed for pFID, each 15 times; 0 for none. It costs what scoring 16 times
    as many images does."""
    extractor: str = "inception"
    """inception or efficientnet-lite0."""
    extractor_weights: str | None = None
    """File with the extractor's weights, where they are not in the usual place."""

    def __post_init__(self) -> None:
        expand_home(self, "output_dir", "extractor_weights")
        object.__setattr__(self, "seeds", tuple(self.seeds))
        object.__setattr__(self, "data", self.data.sized(self.tokenizer.model))
        if not self.methods or not self.seeds:
            raise InputError(
                f"methods are {list(self.methods)} and seeds {list(self.seeds)}; give at least one of each"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"seeds are {list(self.seeds)}; each may be given once")
        if self.jobs < 1:
            raise InputError(f"jobs is {self.jobs}; it must be at least 1")
        if self.num_generated < 2:
            raise InputError(f"num_generated is {self.num_generated}; it must be at least 2")
        check_perturbed_images(self.perturbed_images)
        for name, method in self.methods.items():
            if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
                raise InputError(f"method '{name}' names a folder; use letters, digits, '-', '_' and '.'")
            replace(self.tokenizer.model, **vars(method))  # checks the quantizer and its options
        if self.baseline is not None and self.baseline not in self.methods:
            raise InputError(f"baseline is '{self.baseline}'; valid are the methods {', '.join(self.methods)}")
        if self.grid.values:
            self._check_grid()
        for stage in self.stages:
            if self.budget(stage).given:
                self._check_budget(stage)
            for cell in self.cells:
                self.training(stage, cell)  # checks the setting

    def _check_grid(self) -> None:
        if self.data.validation_fraction:
            raise InputError(
                f"data.validation_fraction is {self.data.validation_fraction} and grid.values are given; "
                "grid.validation_fraction splits the training images for the grid, give one of the two"
            )
        for name in self.grid.values:
            if not self.field_names.resolve(name).startswith(OPTIONS):
                raise InputError(
                    f"grid.values have '{name}'; valid are options of the quantizers, which alone may differ"
                )
        replace(self, settings={"grid": self.grid.values}, grid=OptionGrid(), tokenizers_only=True)  # checks the values

    def _check_budget(self, stage: Stage) -> None:
        training = getattr(self, stage)
        steps = training.steps
        if steps != type(training).steps:  # the default of the class
            raise InputError(f"{stage}.steps is {steps} and {stage}_budget is given too; give one of the two")
        if f"{stage}.steps" in self.varied:
            raise InputError(f"settings vary {stage}.steps, which {stage}_budget sets; give one of the two")
        if stage == "tokenizer" and (seconds := self.tokenizer_budget.seconds):
            for weight in (self.training(stage, cell).adversarial_weight for cell in self.cells):
                if weight:
                    raise InputError(
                        f"tokenizer.adversarial_weight is {weight} and tokenizer_budget has seconds = {seconds:g}; "
                        "steps take longer once the discriminator trains, so that a few do not tell: give images"
                    )

    @property
    def stages(self) -> tuple[Stage, ...]:
        return ("tokenizer",) if self.tokenizers_only else ("tokenizer", "prior")

    def budget(self, stage: Stage) -> Budget:
        return self.tokenizer_budget if stage == "tokenizer" else self.prior_budget

    @cached_property
    def field_names(self) -> FieldNames:
        """The fields that settings may change."""
        quantizers = [(method.quantizer, method.quantizer_options) for method in self.methods.values()]
        return field_names({stage: getattr(self, stage) for stage in self.stages}, quantizers)

    @cached_property
    def studies(self) -> dict[str, list[dict[str, Any]]]:
        """The settings of every study, by full field names."""
        return expand(self.settings, self.field_names)

    @cached_property
    def varied(self) -> dict[str, str]:
        """Fields that any study names, full -> short, in their order."""
        fields = dict.fromkeys(full for settings in self.studies.values() for full in settings[0])
        return {full: self.field_names.shorten(full) for full in fields}

    @cached_property
    def cells(self) -> list[Cell]:
        """All runs: one seed after the other, in each one setting after the other."""
        settings = [setting for study in self.studies.values() for setting in study] or [{}]
        cells: dict[str, Cell] = {}
        for seed in self.seeds:
            for setting in settings:
                for method in self.methods:
                    cell = self.cell(method, setting, seed)
                    cells.setdefault(cell.folder, cell)
        return list(cells.values())

    def cell(self, method: str, setting: dict[str, Any], seed: int) -> Cell:
        """A run; what is so in the recipe already, and options that the method lacks, are left out of the setting."""
        values, parts = {}, [method]
        for full, short in self.varied.items():
            if full in setting and self.has(method, full) and setting[full] != self.value(method, full):
                values[full] = setting[full]
                words = re.findall(r"[\w.+-]+", str(setting[full]))
                parts.append(f"{short}={'-'.join(words)}")
        return Cell(method, values, seed, "-".join(parts))

    def has(self, method: str, full: str) -> bool:
        """Whether a method has a field: of an option, whether its quantizer has it."""
        option = full.removeprefix(f"{OPTIONS}.")
        own = self.methods[method]
        return option == full or option in option_defaults(own.quantizer, own.quantizer_options)

    def value(self, method: str, full: str) -> Any:
        """The value of a field that the method has, where no setting changes it."""
        option = full.removeprefix(f"{OPTIONS}.")
        own = self.methods[method]
        options = {**option_defaults(own.quantizer, own.quantizer_options), **own.quantizer_options}
        return value_of(self, full) if option == full else options[option]

    def setting(self, cell: Cell) -> dict[str, Any]:
        """The values of all varied fields in a run, by short names; None for an option that its quantizer lacks, `NULL`
        for a value that is none."""
        values: dict[str, Any] = dict.fromkeys(self.varied.values())
        for full, short in self.varied.items():
            if self.has(cell.method, full):
                values[short] = in_setting(cell.values.get(full, self.value(cell.method, full)))
        return values

    def training(self, stage: Stage, cell: Cell) -> Any:
        """The training of one stage of a run; with a budget of seconds its steps are still the recipe's."""
        folder = Path(self.output_dir) / cell.folder
        own: dict[str, Any] = {"output_dir": str(folder / stage), "data": self.data, "seed": cell.seed}
        if stage == "tokenizer":
            method = vars(self.methods[cell.method])
            recipe = replace(self.tokenizer, model=replace(self.tokenizer.model, **method), **own)
        else:
            tokens = str(Path(self.output_dir) / "tokens")
            recipe = replace(self.prior, tokenizer=str(folder / "tokenizer" / "model"), tokens_dir=tokens, **own)
        values = {full.removeprefix(f"{stage}."): v for full, v in cell.values.items() if full.startswith(f"{stage}.")}
        if "model.size" in values:  # a prior of another size has that size's width and depth
            values = dict.fromkeys(("model.hidden_size", "model.num_layers", "model.num_heads"), 0) | values
        return apply_budget(with_values(recipe, values), self.budget(stage))
