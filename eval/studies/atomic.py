"""`wvq atomic`: the controlled studies of arXiv 2506.15078, on features drawn from a known distribution.

The training study (its "atomic setting") trains codebooks alone: every step draws fresh features of a Gaussian or
uniform distribution, whose mean is `shift` away from where the codes start. All methods start from the same codes
and see the same features; optimizers and step sizes are the paper's, for a smaller codebook in proportion to its size.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from wvq.tokenizer import (
    CodebookUsage,
    EMAQuantizer,
    InputError,
    LinearQuantizer,
    MMDQuantizer,
    OnlineQuantizer,
    TransportQuantizer,
    VanillaQuantizer,
    WassersteinQuantizer,
    gaussian_wasserstein_distance,
)
from wvq.tokenizer.errors import LARGEST_SEED, check_range
from wvq.tokenizer.progress import progress_bar
from wvq.tokenizer.quantizers.codebook import CodebookQuantizer
from wvq.tokenizer.quantizers.gaussian import mean_and_covariance
from wvq.tokenizer.storage.atomic import write_csv, write_json
from wvq.tokenizer.storage.untrusted import expand_home, read_json

from ..comparison.parallel import run_parallel
from .figures import training_figure
from .mismatch import prototypical_study, variance_study

Distribution = Literal["gaussian", "uniform"]
METHODS = ("vanilla", "ema", "online", "linear", "wasserstein", "transport", "mmd")
PAPER_CODEBOOK_SIZE = 16_384  # the size for which the paper's learning rates are meant


@dataclass(frozen=True)
class Atomic:
    """Controlled studies of quantizers; finished parts are not computed again."""

    output_dir: str = "runs/atomic"
    """Where the CSV file, the JSON file and the figure go."""
    study: Literal["training", "prototypical", "variance"] = "training"
    """Codebooks trained on shifted features; or, without training, codes and features in disks that overlap less and
    less; or codes and features of one distribution at several scales. The options below are the training study's."""
    distribution: Distribution = "gaussian"
    """Of features, with a shifted mean, and of initial codes (linear's before its map): N(0, I) or U(-1, 1)^D."""
    methods: tuple[str, ...] = METHODS
    """Quantizers: vanilla, ema, online, linear, wasserstein, transport (one jump, then moving averages), mmd."""
    shifts: tuple[float, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 8)
    """Distance of the features' mean from the codes', along every axis."""
    codebook_size: int = PAPER_CODEBOOK_SIZE
    """K."""
    codebook_dim: int = 8
    """D."""
    num_features: int = 50_000
    """Features drawn for each step."""
    num_evaluation: int = 200_000
    """Features drawn for each evaluation."""
    steps: int = 2_000
    """Updates."""
    evaluate_every: int = 100
    """Updates between evaluations; step 0 is always evaluated."""
    seeds: tuple[int, ...] = (12,)
    """Of codes and features; every study repeats for each."""
    jobs: int = 1
    """Trainings at once."""

    def __post_init__(self) -> None:
        for name in ("methods", "shifts", "seeds"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if not getattr(self, name):
                raise InputError(f"{name} is empty; it needs at least one")
        for name in ("codebook_size", "codebook_dim", "num_features", "num_evaluation", "steps", "evaluate_every",
                     "jobs"):  # fmt: skip
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        expand_home(self, "output_dir")
        check_range(self, "seeds", least=0, most=LARGEST_SEED)
        check_range(self, "shifts")
        if unknown := [method for method in self.methods if method not in METHODS]:
            raise InputError(f"methods holds '{unknown[0]}'; valid are {', '.join(METHODS)}")


def atomic(config: Atomic) -> Path:
    """Run a study; returns its figure."""
    folder = Path(config.output_dir)
    if config.study == "prototypical":
        return prototypical_study(folder, config.seeds)
    if config.study == "variance":
        return variance_study(folder, config.seeds)
    cells = [(m, s, seed) for seed in config.seeds for s in config.shifts for m in config.methods]
    waiting = [cell for cell in cells if not _cell_path(config, *cell).exists()]
    run_parallel(train_cell, [[(config, *cell)] for cell in waiting], min(config.jobs, len(waiting)) or 1)
    rows = [row for cell in cells for row in read_json(_cell_path(config, *cell))["rows"]]
    write_csv(folder / "atomic.csv", rows)
    write_json(folder / "atomic.json", {"protocol": asdict(config), "rows": rows})
    training_figure(rows, folder / "atomic.png")
    return folder / "atomic.png"


def draw_features(distribution: Distribution, count: int, dim: int, shift: float, generator: torch.Generator) -> Tensor:
    """Features (count, dim) of N(shift, I) or U(-1, 1)^dim + shift."""
    if distribution == "gaussian":
        return torch.randn(count, dim, generator=generator) + shift
    return torch.rand(count, dim, generator=generator) * 2 - 1 + shift


def build(method: str, config: Atomic) -> tuple[CodebookQuantizer, float]:
    """A method's quantizer and its SGD learning rate (arXiv 2506.15078, released settings of its atomic study).

    Losses here are means over all K*D elements, the paper's are sums over the D coordinates, hence the factors D.
    """
    dim = config.codebook_dim
    sizes: dict[str, Any] = {"codebook_size": config.codebook_size, "codebook_dim": dim, "initialization": "normal"}
    share = config.codebook_size / PAPER_CODEBOOK_SIZE  # the gradient of one code shrinks as 1 / K
    if method == "vanilla":
        return VanillaQuantizer(**sizes, commitment_weight=0, codebook_weight=dim), 1.0 * share
    if method == "ema":
        return EMAQuantizer(**sizes, commitment_weight=0, decay=0.9), 0.0
    if method == "online":
        return OnlineQuantizer(**sizes, commitment_weight=0, codebook_weight=dim, decay=0.9), 3.0 * share
    if method == "linear":
        return LinearQuantizer(**sizes, commitment_weight=0, codebook_weight=dim), 0.02
    if method == "mmd":
        return MMDQuantizer(**sizes, commitment_weight=0, codebook_weight=0.1 * dim, mmd_weight=10), 3.0 * share
    options: dict[str, Any] = {**sizes, "commitment_weight": 0, "statistics_window": 1, "scale_free": False}
    if method == "transport":
        return TransportQuantizer(**options, transport_step=0, decay=0.9), 0.0
    return WassersteinQuantizer(**options, codebook_weight=0.1 * dim, wasserstein_weight=10), 3.0 * share


def train_cell(config: Atomic, method: str, shift: float, seed: int) -> None:
    """Train one codebook and write its rows."""
    generator = torch.Generator().manual_seed(seed)
    distribution, dim = config.distribution, config.codebook_dim
    codes = draw_features(distribution, config.codebook_size, dim, 0.0, generator)
    torch.manual_seed(seed)  # of the linear map
    quantizer, learning_rate = build(method, config)
    quantizer.weight.data.copy_(codes)
    learnt = [parameter for parameter in quantizer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learnt, lr=learning_rate, momentum=0.9) if learnt else None
    label = {"distribution": distribution, "method": method, "shift": shift, "seed": seed}
    rows: list[dict[str, Any]] = []
    with progress_bar(total=config.steps, desc=f"{method}, shift {shift:g}, seed {seed}", unit="step") as progress:
        for step in range(config.steps + 1):
            if step % config.evaluate_every == 0 or step in (1, config.steps):
                features = draw_features(distribution, config.num_evaluation, dim, shift, generator)
                rows.append({**label, "step": step, **codebook_scores(quantizer, features)})
                progress.set_postfix({k: f"{rows[-1][k]:.4g}" for k in ("quantization_error", "utilization")})
            if step == config.steps:
                break
            output = quantizer.train()(draw_features(distribution, config.num_features, dim, shift, generator))
            if optimizer:
                optimizer.zero_grad()
                output.loss.backward()
                optimizer.step()
            progress.update()
    write_json(_cell_path(config, method, shift, seed), {"settings": _settings(config), "rows": rows})


@torch.no_grad()
def codebook_scores(quantizer: CodebookQuantizer, features: Tensor) -> dict[str, float]:
    """E, U, C of a codebook on features (N, D), and the Wasserstein distance between both as Gaussians."""
    indices = quantizer.eval()(features).indices
    usage = CodebookUsage(quantizer.codebook_size)
    usage.update(indices)
    counts = usage.compute()
    distance = gaussian_wasserstein_distance(*mean_and_covariance(features), *mean_and_covariance(quantizer.codebook))
    return {
        "quantization_error": (features - quantizer.lookup(indices)).square().sum(dim=1).mean().item(),
        "utilization": counts["utilization"].item(),
        "perplexity": counts["perplexity"].item(),
        "wasserstein_distance": distance.item(),
    }


def _settings(config: Atomic) -> dict[str, Any]:
    """What a cell depends on, besides its method, shift and seed."""
    others = {"output_dir", "study", "methods", "shifts", "seeds", "jobs"}
    return {name: value for name, value in asdict(config).items() if name not in others}


def _cell_path(config: Atomic, method: str, shift: float, seed: int) -> Path:
    """The file of one training.

    Raises:
        InputError: if it is there and of other settings.
    """
    path = Path(config.output_dir) / "cells" / f"{config.distribution}-{method}-{shift:g}-{seed}.json"
    if path.exists() and (there := read_json(path)["settings"]) != _settings(config):
        changed = next(name for name, value in _settings(config).items() if there.get(name) != value)
        raise InputError(
            f"{path} was computed with {changed} = {there.get(changed)}, not {_settings(config)[changed]}; "
            f"take another output_dir"
        )
    return path
