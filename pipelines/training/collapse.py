"""Whether a codebook is collapsing, or has no codes yet, told while it is trained."""

import math
from collections.abc import Sequence
from typing import Any

from wvq.tokenizer.model import TokenizerConfig, VQTokenizer
from wvq.tokenizer.quantizers.codebook import CodebookQuantizer

LOW = 0.25  # of the utilization that codes drawn at random would reach
FALLEN = 0.5  # of the best utilization so far


def collapse_warning(metrics: Sequence[dict[str, Any]], model: TokenizerConfig, images: int) -> str | None:
    """What to tell the user after the last evaluation, or None.

    Args:
        metrics: the run's lines of metrics, oldest first.
        model: whose codebook it is.
        images: that an evaluation counts; N draws from K codes reach a share 1 - exp(-N / K) of them, with each of
            several sub-quantizers.
    """
    evaluations = [row for row in metrics if "utilization" in row]
    last, best = evaluations[-1], max(evaluations, key=lambda row: row["utilization"])
    attainable = 1 - math.exp(-images * model.num_tokens / model.num_codes)
    if last["utilization"] < FALLEN * best["utilization"]:
        what = f"fell from {best['utilization']:.3f} at step {best['step']} to {last['utilization']:.3f}"
    elif last["utilization"] < LOW * attainable:
        what = f"is {last['utilization']:.3f}, where codes drawn at random would reach {attainable:.3f}"
    else:
        return None
    return (
        f"step {last['step']}: the codebook is collapsing: utilization {what} (perplexity {last['perplexity']:.0f} of "
        f"{model.num_codes}); try --model.quantizer wasserstein, a higher wasserstein_weight, "
        f"initialization data, or a smaller --model.codebook-size"
    )


def waiting_warning(model: VQTokenizer, step: int) -> str | None:
    """What to tell the user where codes from data are still to be drawn, or None."""
    if not any(part.waiting for part in model.modules() if isinstance(part, CodebookQuantizer)):
        return None
    return (
        f"step {step}: features still pass unquantized, since codes start from data and fewer vectors than they need "
        "have been seen, or fewer steps than initialization_steps; train longer, or take initialization normal"
    )
