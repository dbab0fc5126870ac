"""The tables over groups of runs as columns: means with intervals, mean ranks, differences from the baseline."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .group_scores import Group, GroupScore, group_scores
from .report_table import Column


def mean_columns(columns: Sequence[Column], groups: Sequence[Group]) -> list[Column]:
    """The columns averaged over the seeds of each group, with half widths of the t intervals of the means."""
    means = []
    for column in columns:
        intervals = [score.mean for score in group_scores(column, groups, None)]
        values, halves = [one.value for one in intervals], [one.high - one.value for one in intervals]
        means.append(replace(column, values=values, halves=halves))
    return means


def rank_columns(columns: Sequence[Column], groups: Sequence[Group]) -> list[Column]:
    """Mean ranks over the seeds in every ranked column, and the mean of these over the columns."""
    ranks = []
    for column in columns:
        values = [score.rank for score in group_scores(column, groups, None)]
        if not all(map(math.isnan, values)):
            ranks.append(Column(column.name, values, -1, note=column.note, fixed_decimals=2))
    if not ranks:
        return []
    overall = np.array([column.values for column in ranks]).mean(axis=0).tolist()
    return [*ranks, Column("all scores", overall, -1, fixed_decimals=2)]


def difference_columns(columns: Sequence[Column], groups: Sequence[Group], baseline: str | None) -> list[Column]:
    """Mean differences from the baseline in every ranked column, with t intervals and p values; bold are those whose
    corrected p is below 0.05."""
    found = []
    for column, mean in zip(columns, mean_columns(columns, groups), strict=True):
        scores = group_scores(column, groups, baseline)
        if not any(score.test for score in scores):
            continue
        tests = [score.test.difference if score.test else None for score in scores]
        difference = replace(
            column,
            values=[one.value if one else math.nan for one in tests],
            halves=[one.high - one.value if one else math.nan for one in tests],
            details=[_p_text(score) for score in scores],
            marked=tuple(row for row, score in enumerate(scores) if score.significant),
            fixed_decimals=mean.decimals,
            signed=True,
        )
        found.append(difference)
    return found


def _p_text(score: GroupScore) -> str:
    """Both p values, a line each; empty where there was no test."""
    if score.test is None or math.isnan(score.test.p):
        return ""
    return f"p\N{NO-BREAK SPACE}{_digits(score.test.p)}\nHolm\N{NO-BREAK SPACE}{_digits(score.p_holm)}"


def _digits(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "<\N{NO-BREAK SPACE}0.001"
