"""Every score of every group of runs: its mean and interval over the seeds, its rank, its test against the baseline.

A group are the runs of one method in one setting, which differ in their seeds alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..metrics.bootstrap import Interval
from .columns import Column
from .statistics import PairedTest, holm, mean_ranks, paired_t_test, t_interval

SIGNIFICANT = 0.05
_UNKNOWN = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Group:
    """A method in a setting ({field: value}, empty without an ablation) and its rows in the table, by seed."""

    method: str
    setting: dict[str, Any]
    rows: dict[int, int]

    @property
    def label(self) -> str:
        return group_label(self.method, self.setting)


@dataclass(frozen=True)
class GroupScore:
    """One score of a group. `rank` is NaN for a score that is not ranked, `test` None where there is no baseline for
    it, `p_holm` the test's p corrected by Holm's method for all tests of the same score."""

    group: Group
    seeds: int
    mean: Interval
    rank: float
    test: PairedTest | None
    p_holm: float

    @property
    def significant(self) -> bool:
        return self.p_holm < SIGNIFICANT


def group_label(method: str, setting: dict[str, Any]) -> str:
    """A method in a setting, in words."""
    return ", ".join([method, *(f"{name} {value}" for name, value in setting.items() if value is not None)])


def group_rows(rows: Sequence[dict[str, Any]]) -> list[Group]:
    """The groups of the rows of comparison.json, in order of appearance."""
    groups: dict[str, Group] = {}
    for index, row in enumerate(rows):
        group = Group(row["quantizer"], row["setting"], {})
        groups.setdefault(group.label, group).rows[row["seed"]] = index
    return list(groups.values())


def opponents(groups: Sequence[Group], baseline: str | None) -> list[Group | None]:
    """For each group the group of the baseline in the same setting; None for the baseline itself, and where not one
    alone of the baseline's settings agrees in all fields that both methods have."""
    found: list[Group | None] = []
    for group in groups:
        same = [other for other in groups if other.method == baseline and agree(other.setting, group.setting)]
        found.append(same[0] if group.method != baseline and len(same) == 1 else None)
    return found


def agree(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two settings are the same in all fields that both methods have."""
    return all(one[name] == other[name] for name in one if one[name] is not None and other[name] is not None)


def group_scores(column: Column, groups: Sequence[Group], baseline: str | None) -> list[GroupScore]:
    """The score in a column of the table (a value per row), for each group."""
    values = [_by_seed(column, group) for group in groups]
    seeds = sorted({seed for group in groups for seed in group.rows})
    matrix = np.array([[own.get(seed, math.nan) for seed in seeds] for own in values])
    measured = ~np.isnan(matrix).all(axis=1)
    ranks = np.full(len(groups), math.nan)
    if column.direction and measured.sum() > 1:
        ranks[measured] = mean_ranks(matrix[measured], column.direction)
    rivals = opponents(groups, baseline)
    tests = [
        paired_test(column, group, rival) if rival and column.direction else None
        for group, rival in zip(groups, rivals, strict=True)
    ]
    corrected = holm([test.p if test else math.nan for test in tests])
    means = [t_interval(list(own.values())) if own else _UNKNOWN for own in values]
    return [
        GroupScore(group, len(own), mean, float(rank), test, p)
        for group, own, mean, rank, test, p in zip(groups, values, means, ranks, tests, corrected, strict=True)
    ]


def _by_seed(column: Column, group: Group) -> dict[int, float]:
    """Seed -> score, of the runs in which it was measured."""
    values = {seed: column.values[row] for seed, row in group.rows.items()}
    return {seed: value for seed, value in values.items() if not math.isnan(value)}


def paired_test(column: Column, group: Group, rival: Group) -> PairedTest | None:
    """The paired test of group minus rival over the seeds in which both were measured, None without any."""
    own, other = _by_seed(column, group), _by_seed(column, rival)
    common = sorted(own.keys() & other.keys())
    return paired_t_test([own[seed] for seed in common], [other[seed] for seed in common]) if common else None


def statistics_rows(columns: Sequence[Column], groups: Sequence[Group], baseline: str | None) -> list[dict[str, Any]]:
    """A flat record for each score and group, for comparison.json and statistics.csv; None is what is not known."""
    records = []
    for column in columns:
        for score in group_scores(column, groups, baseline):
            difference = score.test.difference if score.test else _UNKNOWN
            record: dict[str, Any] = {"quantizer": score.group.method, **named_setting(score.group.setting)}
            record |= {"score": column.title, "better": {1: "higher", -1: "lower", 0: None}[column.direction]}
            record |= {"seeds": score.seeds, "mean": score.mean.value, "low": score.mean.low, "high": score.mean.high}
            record |= {"mean_rank": score.rank, "difference": difference.value}
            record |= {"difference_low": difference.low, "difference_high": difference.high}
            record |= {"p": score.test.p if score.test else math.nan, "p_holm": score.p_holm}
            records.append({name: known(value) for name, value in record.items()})
    return records


def named_setting(setting: dict[str, Any]) -> dict[str, Any]:
    """A setting in a flat record, as "setting.NAME": a field may be called as what else a record holds."""
    return {f"setting.{name}": value for name, value in setting.items()}


def known(value: Any) -> Any:
    """A value for JSON: None in place of NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


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
