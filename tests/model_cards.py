"""What is asked of the card in a pipeline's folder."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results


def read_card(readme: Path) -> tuple[Any, dict[str, Any]]:
    """The card, whose metadata the hub's library reads and writes alike, and the value of each score by its type."""
    card: Any = ModelCard.load(readme)
    results = card.data.eval_results or []
    named, again = model_index_to_eval_results(eval_results_to_model_index(card.data.model_name, results))
    assert (named, again) == (card.data.model_name, results)
    assert ModelCard(f"---\n{card.data.to_yaml()}\n---\n{card.text}").data.to_dict() == card.data.to_dict()
    return card, {result.metric_type: result.metric_value for result in results}


def assert_card_has_the_reports_figures(readme: Path, row: dict[str, Any], report: str) -> None:
    """The metadata hold the numbers of a row of comparison.json, and page and report show the same digits of them."""
    card, values = read_card(readme)
    assert values["rfd"] == row["reconstruction_frechet_distance"]
    assert values["fd"] == row["generation_frechet_distance"]
    for key in ("psnr", "ssim", "utilization", "perplexity", "token_entropy", "relative_quantization_error"):
        assert values[key] == row[key]
    for text, unit in (
        (f"{row['psnr']:.2f}", ""),
        (f"{row['ssim']:.4f}", ""),
        (f"{100 * row['utilization']:.1f}", " %"),
    ):
        assert f"| {text}{unit} |" in card.text
        assert text in report
    origin = {line.split(" | ")[0]: line for line in card.text.splitlines() if line.startswith("| ")}
    assert origin["| steps"] == f"| steps | {row['steps']['tokenizer']:,} | {row['steps']['prior']:,} |"
    assert f"{row['bits_per_token']:.4g}" in origin["| held-out bits per token"]
