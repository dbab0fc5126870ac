"""What the report shows of one run, as arrays."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .groups import group_label


@dataclass
class RunReport:
    """What the report shows of one row of the comparison.

    `setting` are the values of the ablated fields (empty without an ablation),
    `tokenizer_metrics` and `prior_metrics` are the rows of the runs' metrics.jsonl (either may be empty),
    `code_histogram` (K,) counts the codes over the whole evaluation set, `features` (N, D) is a sample of the features
    of evaluation images before quantization, `codes` (K, D) the codebook, or None where there are several,
    `originals` and `reconstructions` are uint8 (n, C, H, W), `samples` uint8 (classes, per class, C, H, W) or None
    where no prior was trained.
    """

    quantizer: str
    setting: dict[str, Any]
    seed: int
    tokenizer_metrics: list[dict]
    prior_metrics: list[dict]
    code_histogram: np.ndarray
    features: np.ndarray
    codes: np.ndarray | None
    originals: np.ndarray
    reconstructions: np.ndarray
    samples: np.ndarray | None
    class_names: tuple[str, ...]

    @property
    def group(self) -> str:
        return group_label(self.quantizer, self.setting)

    @property
    def label(self) -> str:
        return f"{self.group}, seed\N{NO-BREAK SPACE}{self.seed}"
