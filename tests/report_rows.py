"""Rows of comparison.json as a comparison writes them."""

from typing import Any

from wvq.eval.report.columns import table_columns
from wvq.eval.report.groups import group_rows
from wvq.eval.report.words import summary


def row(quantizer: str, seed: int, **scores: Any) -> dict:
    values = {
        "setting": {},
        "steps": {"tokenizer": 1000, "prior": 500},
        "utilization": 0.954,
        "perplexity": 575.25,
        "token_entropy": 449.25,
        "quantization_error": 0.9865,
        "relative_quantization_error": 0.0471,
        "psnr": 23.333,
        "ssim": 0.8123,
        "reconstruction_frechet_distance": 525.31,
        "perturbed_frechet_distance": None,
        "generation_frechet_distance": 667.42,
        "bits_per_token": 5.9,
        "bits_per_image": 289.1,
        "extractor": "efficientnet-lite0",
        "num_reference": 10000,
        "num_perturbed": 0,
        "num_generated": 5000,
        "seconds": {"tokenizer": 150.4, "tokens": 3.0, "prior": 1330.2, "sampling": 9.0, "evaluation": 30.0},
    }
    return {"quantizer": quantizer, "seed": seed} | values | scores


VANILLA = {"utilization": 0.36, "perplexity": 184.5, "relative_quantization_error": 0.0602, "psnr": 23.5}
VANILLA |= {"reconstruction_frechet_distance": 575.0, "generation_frechet_distance": 666.0}


def summarize(rows: list[dict]) -> str:
    return summary(group_rows(rows), table_columns(rows))
