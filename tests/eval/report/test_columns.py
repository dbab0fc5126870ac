"""The table of the report in numbers and in words: ranking, digits, the summary."""

import copy
import math

import pytest
from report_rows import VANILLA, row, summarize

from wvq.eval.report.columns import Column, table_columns
from wvq.eval.report.groups import group_rows
from wvq.eval.report.pairs import group_pairs, p_of_lead
from wvq.eval.report.statistics import paired_t_test


@pytest.mark.parametrize("change", [{"extractor": "inception"}, {"num_reference": 500}])
def test_distances_of_different_protocols_are_not_ranked_together(change: dict) -> None:
    columns = table_columns([row("vanilla", 0, **change), row("wasserstein", 0), row("mmd", 0)])
    reconstruction = [column for column in columns if column.name.startswith("rF")]
    assert [column.measured() for column in reconstruction] == [[0], [1, 2]]
    assert reconstruction[0].leaders() == []


def test_what_was_not_measured_is_a_dash_and_never_best() -> None:
    untrained = row("vanilla", 0, generation_frechet_distance=None, num_generated=None, seconds={"tokenizer": 1.0})
    columns = {
        column.name: column for column in table_columns([untrained, row("mmd", 0), row("ema", 0, ssim=math.nan)])
    }
    assert columns["FD[efficientnet-lite0]"].text(0) == "\N{EN DASH}"
    assert columns["FD[efficientnet-lite0]"].leaders() == [1, 2]
    assert columns["prior training"].text(0) == "\N{EN DASH}"
    assert columns["SSIM"].leaders() == [0, 1]
    assert all(not column.name.startswith("FD") for column in table_columns([untrained]))


def test_scores_that_older_rows_lack_are_a_dash_and_those_of_no_row_no_column() -> None:
    newer = ("token_entropy", "bits_per_token", "bits_per_image", "perturbed_frechet_distance", "num_perturbed")
    old = {name: value for name, value in row("vanilla", 0).items() if name not in newer}
    names = [column.name for column in table_columns([old])]
    assert not {"token entropy", "bits per token", "bits per image", "pFD[efficientnet-lite0]"} & set(names)
    both = [old, row("mmd", 0, perturbed_frechet_distance=812.5, num_perturbed=2000)]
    columns = {column.name: column for column in table_columns(both)}
    assert [columns["token entropy"].text(place) for place in (0, 1)] == ["\N{EN DASH}", "449.2"]
    assert [columns["bits per image"].text(place) for place in (0, 1)] == ["\N{EN DASH}", "289.1"]
    perturbed = columns["pFD[efficientnet-lite0]"]
    assert (perturbed.text(0), perturbed.text(1), perturbed.note) == ("\N{EN DASH}", "812.5", "2,000 images")
    assert [name for name in columns if "FD[" in name] == [f"{kind}FD[efficientnet-lite0]" for kind in ("r", "p", "")]


def test_bits_are_shown_and_never_ranked() -> None:
    columns = {one.name: one for one in table_columns([row("vanilla", 0), row("mmd", 0, bits_per_image=1.0)])}
    for name in ("token entropy", "bits per token", "bits per image"):
        assert columns[name].in_means
        assert columns[name].leaders() == []
    assert not columns["quantization error"].in_means


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([55839.2, 5112.7], ["55,839", "5,113"]),
        ([475.31, 83.118], ["475.31", "83.12"]),
        ([0.0, 0.0471], ["0.00000", "0.04710"]),
        ([0.0], ["0.000"]),
        ([-2.5, math.nan], ["-2.500", "\N{EN DASH}"]),
    ],
)
def test_a_column_shows_four_digits_of_its_smallest_value(values: list[float], texts: list[str]) -> None:
    column = Column("x", values)
    assert [column.text(index) for index in range(len(values))] == texts


def test_summary_says_who_is_ahead_and_follows_the_numbers() -> None:
    rows = [row("vanilla", 0, **VANILLA), row("wasserstein", 0)]
    text = summarize(rows)
    assert text == (
        "2 runs: vanilla with 1 seed and wasserstein with 1 seed. "
        "wasserstein is ahead in utilization (95.4 % against 36.0 % for vanilla), perplexity (575.2 against 184.5 for "
        "vanilla), relative quantization error (0.04710 against 0.06020 for vanilla) and rFD[efficientnet-lite0] "
        "(525.3 against 575.0 for vanilla). "
        "vanilla is ahead in PSNR (23.50 dB against 23.33 dB for wasserstein) and FD[efficientnet-lite0] "
        "(666.0 against 667.4 for wasserstein). "
        "At the digits shown, those measured are level in SSIM (0.8123). "
        "Where there is one seed, how much a number varies between seeds is not known."
    )
    swapped = copy.deepcopy(rows)
    swapped[0]["quantizer"], swapped[1]["quantizer"] = "wasserstein", "vanilla"
    assert "vanilla is ahead in utilization (95.4 % against 36.0 % for wasserstein)" in summarize(swapped)


def test_summary_of_leads_that_may_be_chance() -> None:
    distances = {("vanilla", 0): 500.0, ("vanilla", 1): 520.0, ("mmd", 0): 505.0, ("mmd", 1): 535.0}
    rows = [
        row(name, seed, reconstruction_frechet_distance=distance, psnr=20.0 + (1 + seed / 1000) * (name == "mmd"))
        for (name, seed), distance in distances.items()
    ]
    text = summarize(rows)
    assert "Means over seeds" not in text
    assert "The numbers in this paragraph are means over seeds." in text
    assert "vanilla is ahead in rFD[efficientnet-lite0] (510.0 against 520.0 for mmd)." in text
    assert "mmd is ahead in PSNR (21.00 dB against 20.00 dB for vanilla)" in text
    assert (
        "In rFD[efficientnet-lite0] the lead over the second may be chance: p of their paired test over seeds, "
        "corrected by Holm's method, is not below 0.05."
    ) in text
    assert "is not known" not in text


def test_a_lead_that_the_correction_takes_may_be_chance() -> None:
    values = {"mmd": (20.0, 21.0, 22.0), "ema": (19.8, 20.7, 21.6), "vanilla": (19.0, 12.0, 16.0)}
    rows = [row(name, seed, psnr=value) for name, own in values.items() for seed, value in enumerate(own)]
    (column,) = (column for column in table_columns(rows) if column.name == "PSNR")
    groups = group_rows(rows)
    p = paired_t_test(values["mmd"], values["ema"]).p
    assert 0.05 / 3 < p < 0.05
    assert p_of_lead(column, groups, 0, 1) == p_of_lead(column, groups, 1, 0) == pytest.approx(3 * p)
    assert "In PSNR the lead over the second may be chance" in summarize(rows)
    assert "may be chance" not in summarize(rows[:6]), "the only pair needs no correction"

    in_settings = [{**row, "setting": {"codebook_size": 64 if row["quantizer"] == "mmd" else 256}} for row in rows]
    assert p_of_lead(column, group_rows(in_settings), 0, 1) == pytest.approx(3 * p)
    assert p_of_lead(column, group_rows(in_settings), 1, 2) == group_pairs(column, group_rows(in_settings))[0].p_holm


def test_summary_of_a_tie_in_front() -> None:
    text = summarize([row("vanilla", 0, psnr=22.0), row("mmd", 0, psnr=23.001), row("ema", 0, psnr=22.999)])
    assert "mmd and ema are level with each other and ahead of the rest in PSNR (23.00 dB against 22.00 dB for" in text


def test_summary_of_one_quantizer() -> None:
    text = summarize([row("mmd", 0, generation_frechet_distance=None)])
    assert text.startswith("1 run: mmd with 1 seed. Utilization 95.4 %, perplexity 575.2, relative quantization")
    assert "PSNR 23.33 dB" in text
    assert "ahead" not in text
    assert text.endswith("There is nothing to compare it with.")
