"""`wvq COMMAND`: every command takes options, a recipe (`--config recipe.yaml`), or both, and explains itself."""

import dataclasses
import importlib
import re
import sys
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple, NoReturn, get_type_hints

from .options.help import HELP

USAGE_ERROR = 2


class Command(NamedTuple):
    """A command: what it says of itself, its function, the configuration class that is the function's one argument,
    options that follow from others ((source, target) pairs), and the recipe it starts from."""

    summary: str
    function: str
    configuration: str
    links: tuple[tuple[str, str], ...] = ()
    recipe: str | None = None


_DATA_TO_MODEL = (("data.image_size", "model.image_size"), ("data.channels", "model.channels"))
_DEFAULTS = {  # what these are for a model where they are left open
    "data.image_size": lambda size: 28 if size is None else size,
    "data.channels": lambda channels: 3 if channels is None else channels,
}
_COMPARISON = (
    ("data", "tokenizer.data"),
    ("data", "prior.data"),
    ("data.image_size", "tokenizer.model.image_size"),
    ("data.channels", "tokenizer.model.channels"),
)

COMMANDS = {
    "demo": Command(
        "both stages, samples, scores and a report on CIFAR-10, sized for 2 CPU cores",
        "wvq.eval.comparison.compare:compare_and_summarize",
        "wvq.eval.comparison.compare:Comparison",
        _COMPARISON,
        recipe="demo.yaml",
    ),
    "train-tokenizer": Command(
        "stage one: train an image tokenizer",
        "wvq.pipelines.adversarial.command:train_stage_one",
        "wvq.pipelines.train_tokenizer:TokenizerTraining",
        _DATA_TO_MODEL,
    ),
    "refine-tokenizer": Command(
        "stage one, further: sharpen a trained tokenizer, or its decoder alone",
        "wvq.pipelines.adversarial.command:refine_tokenizer",
        "wvq.pipelines.adversarial.command:TokenizerRefinement",
    ),
    "transplant": Command(
        "give an autoencoder a quantizer", "wvq.eval.transplant:transplant_and_report", "wvq.eval.transplant:Transplant"
    ),
    "tokenize": Command(
        "encode images into the token cache", "wvq.pipelines.tokenize:tokenize", "wvq.pipelines.tokenize:Tokenization"
    ),
    "train-prior": Command(
        "stage two: train a prior on tokens",
        "wvq.pipelines.train_prior:train_pipeline",
        "wvq.pipelines.train_prior:PriorTraining",
    ),
    "sample": Command("generate images", "wvq.pipelines.sample:sample", "wvq.pipelines.generation:Sampling"),
    "edit": Command("draw a part of a picture anew", "wvq.pipelines.edit:edit", "wvq.pipelines.edit:Edit"),
    "reconstruct": Command(
        "encode and decode images", "wvq.pipelines.reconstruct:reconstruct", "wvq.pipelines.reconstruct:Reconstruction"
    ),
    "app": Command(
        "look at pipelines in a browser", "wvq.pipelines.app.command:show", "wvq.pipelines.app.command:Application"
    ),
    "evaluate": Command(
        "score reconstructions and samples", "wvq.eval.evaluate:evaluate", "wvq.eval.evaluate:Evaluation"
    ),
    "card": Command(
        "write the model card of a pipeline: training, scores, samples, how to load it",
        "wvq.pipelines.sharing.card:card",
        "wvq.pipelines.sharing.card:Card",
    ),
    "push": Command(
        "upload a pipeline to Hugging Face's hub", "wvq.pipelines.sharing.push:push", "wvq.pipelines.sharing.push:Push"
    ),
    "sweep": Command(
        "find the guidance, temperature and truncation that suit a pipeline, on training images",
        "wvq.eval.sweep.command:sweep_pipeline",
        "wvq.eval.sweep.command:Sweep",
    ),
    "compare": Command(
        "train and score quantizers under one budget, and write the report",
        "wvq.eval.comparison.compare:compare_and_summarize",
        "wvq.eval.comparison.compare:Comparison",
        _COMPARISON,
    ),
    "atomic": Command(
        "the paper's studies of quantizers", "wvq.eval.studies.atomic:atomic", "wvq.eval.studies.atomic:Atomic"
    ),
    "recipes": Command(
        "list or print recipes", "wvq.pipelines.options.installed:recipes", "wvq.pipelines.options.installed:Recipes"
    ),
    "benchmark quantizers": Command(
        "time and memory of a training step of every quantizer, beside other implementations",
        "wvq.eval.benchmarks.quantizers:benchmark_quantizers",
        "wvq.eval.benchmarks.quantizers:QuantizerBenchmark",
    ),
    "benchmark data": Command(
        "decoded images a second by source and worker processes, beside torchvision's ImageFolder",
        "wvq.eval.benchmarks.data:benchmark_data",
        "wvq.eval.benchmarks.data:DataBenchmark",
    ),
    "benchmark sampling": Command(
        "tokens a second of the sampler, of transformers, and what the machine allows",
        "wvq.eval.benchmarks.sampling:benchmark_sampling",
        "wvq.eval.benchmarks.sampling:SamplingBenchmark",
    ),
    "benchmark evaluation": Command(
        "images a second and seconds a score, beside torch-fidelity, torchmetrics and pytorch-fid",
        "wvq.eval.benchmarks.evaluation:benchmark_evaluation",
        "wvq.eval.benchmarks.evaluation:EvaluationBenchmark",
    ),
    "benchmark sample-size": Command(
        "how far from 0 the FID of two samples of one distribution is, plain and extrapolated",
        "wvq.eval.benchmarks.sample_size:benchmark_sample_size",
        "wvq.eval.benchmarks.sample_size:SampleSizeBenchmark",
    ),
    "benchmark training": Command(
        "what the training loops cost beyond the bare step of the same model",
        "wvq.eval.benchmarks.training:benchmark_training",
        "wvq.eval.benchmarks.training:TrainingBenchmark",
        (("data.image_size", "tokenizer.image_size"), ("data.channels", "tokenizer.channels")),
    ),
    "benchmark inpainting": Command(
        "how far what fills a hole is from what was there, beside a prior that was shown it",
        "wvq.eval.benchmarks.inpainting:benchmark_inpainting",
        "wvq.eval.benchmarks.inpainting:InpaintingBenchmark",
    ),
    "benchmark prior": Command(
        "training tokens a second of the prior, beside a plain GPT in a plain loop",
        "wvq.eval.benchmarks.prior:benchmark_prior",
        "wvq.eval.benchmarks.prior:PriorBenchmark",
    ),
}

GROUPS = {"benchmark": "what things cost, beside named peers, and how well holes are filled"}
"""Commands of two words, by their first."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `wvq` with the given arguments, by default the process's; exit code 2 for input that cannot be used."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in HELP:
        print(_overview())
        return
    name, *rest = arguments
    if name == "completion":
        _print_completion(rest)
        return
    if name in GROUPS:
        if not rest or rest[0] in HELP:
            print(_overview(name))
            return
        name, rest = f"{name} {rest[0]}", rest[1:]
    if name not in COMMANDS:
        names = ", ".join(_rows(name.partition(" ")[0] if " " in name else ""))
        _fail("wvq", f"'{name}' is no command; valid are {names}")
    command = COMMANDS[name]

    from wvq.tokenizer.errors import InputError, plain_message

    try:
        configuration = parse(name, rest)
        result = _load(command.function)(configuration)
    except InputError as error:
        _fail(f"wvq {name}", plain_message(error))
    except MemoryError as error:
        _fail(f"wvq {name}", f"out of memory: {str(error) or 'the system gave no more'}")
    except OSError as error:
        _fail(f"wvq {name}", f"{error.filename or 'input or output'}: {error.strerror or error}")
    if result is not None:
        print(result)


def parse(name: str, arguments: Sequence[str]) -> Any:
    """The configuration of a command from its arguments and recipes; dashes and underscores in options are the same.

    Raises:
        InputError: for an unknown or unfit option or recipe key.
        SystemExit: after --help.
    """
    from jsonargparse import ArgumentError

    from wvq.tokenizer.errors import InputError

    from .options.declarations import constructed, declared
    from .options.help import long_help, short_help
    from .options.installed import with_installed
    from .options.lists import list_options, with_flags, with_lists
    from .options.recipes import agreed, allow_recipes

    configuration = declared(COMMANDS[name].configuration)  # without torch, which a mistyped option need not wait for
    lists = dict(list_options(configuration))
    dashed = [re.sub(r"^--[\w.-]+", lambda o: "--" + o[0][2:].replace("-", "_"), a) for a in arguments]
    dashed = with_installed(with_lists(with_flags(dashed, configuration), lists), name)
    followers, found = {target: source for source, target in COMMANDS[name].links if source in _DEFAULTS}, []
    parser = _parser(name, configuration, allow_recipes(dashed, lists, followers, found))
    if asked := HELP.intersection(arguments):
        summary = COMMANDS[name].summary
        print(long_help(parser) if "--help-all" in asked else short_help(parser, name, summary, configuration))
        raise SystemExit(0)
    try:
        values = parser.instantiate(parser.parse_args(dashed))
        options = {key: value for key, value in values.items() if key != "config"}
        _check_whole_numbers(options)
        return constructed(agreed(configuration(**options), followers, found))
    except (ArgumentError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(_first_cause(error)) from error


def _parser(name: str, configuration: type, mode: str) -> Any:
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=False)  # a declaration has them in its own
    command = COMMANDS[name]
    parser = ArgumentParser(
        prog=f"wvq {name}",
        description=command.summary,
        exit_on_error=False,
        default_config_files=[str(files("wvq.pipelines") / command.recipe)] if command.recipe else [],
        parser_mode=mode,
    )
    parser.add_argument("--config", action="config", help="a recipe: a YAML or JSON file, or a name in `wvq recipes`")
    parser.add_class_arguments(configuration, as_positional=True)  # what has no default
    for source, target in command.links:
        for part in _parts(configuration, source):
            parser.link_arguments(source + part, target + part, _DEFAULTS.get(source + part))
    return parser


def _check_whole_numbers(values: dict[str, Any], prefix: str = "") -> None:
    """Raises: InputError: for a whole number that no tensor can hold."""
    from wvq.tokenizer.errors import InputError

    for name, value in values.items():
        if dataclasses.is_dataclass(value):
            _check_whole_numbers(vars(value), f"{prefix}{name}.")
        for number in value if isinstance(value, tuple | list) else (value,):
            if isinstance(number, int) and abs(number) >= 2**63:
                raise InputError(f"{prefix}{name} is {value}; whole numbers must be below 2^63")


def _parts(configuration: type, name: str) -> list[str]:
    """ ".field" for each field of a group of options, or "" alone for a single option."""
    group = get_type_hints(configuration).get(name)
    return [f".{field.name}" for field in dataclasses.fields(group)] if dataclasses.is_dataclass(group) else [""]


def _first_cause(error: BaseException) -> str:
    """The message of a parsing error, without the traces that jsonargparse adds, in at most two lines."""
    return "\n".join([line.strip() for line in str(error).splitlines() if line.strip()][:2])


def _load(path: str) -> Any:
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)


def _rows(group: str = "") -> dict[str, str]:
    """What there is and what it does: the commands of a group, or all others, and each group as one row."""
    if group:
        return {name: command.summary for name, command in COMMANDS.items() if name.startswith(f"{group} ")}
    own = {name.partition(" ")[0]: command.summary for name, command in COMMANDS.items()}
    return {**own, **GROUPS, "completion": "print a script that completes commands and options, of bash or zsh"}


def _overview(group: str = "") -> str:
    rows = _rows(group)
    width = max(map(len, rows))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in rows.items()]
    command = f"{group} WHAT" if group else "COMMAND"
    ending = f"wvq {command} --help shows what most people set, --help-all every option."
    return "\n".join([f"usage: wvq {command} [options]", "", *lines, "", ending])


def _print_completion(arguments: Sequence[str]) -> None:
    from .options.completion import SHELLS, completion_script

    if len(arguments) != 1 or arguments[0] not in SHELLS:
        _fail("wvq completion", f"give the shell: wvq completion {' or '.join(SHELLS)}")
    print(completion_script(arguments[0], {name: command.configuration for name, command in COMMANDS.items()}))


def _fail(program: str, message: str) -> NoReturn:
    print(f"{program}: error: {message}", file=sys.stderr)
    raise SystemExit(USAGE_ERROR)
