"""Who beats whom: every pair of methods in the same setting, tested over the seeds that both have."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from .columns import Column
from .groups import SIGNIFICANT, Group, agree, group_label, known, named_setting, paired_test
from .statistics import PairedTest, holm


@dataclass(frozen=True)
class Pair:
    """The test of `first` minus `second` in a score, its p corrected by Holm's method for all pairs of that score.

    `winner` is the one that is better with a corrected p below 0.05, None if there is none.
    """

    first: Group
    second: Group
    test: PairedTest
    p_holm: float
    winner: Group | None

    @property
    def loser(self) -> Group:
        """The other one than the winner."""
        return self.second if self.winner is self.first else self.first

    @property
    def setting(self) -> dict[str, Any]:
        """The fields that either method has."""
        own, other = self.first.setting, self.second.setting
        return {name: value if value is not None else other[name] for name, value in own.items()}


def group_pairs(column: Column, groups: Sequence[Group]) -> list[Pair]:
    """The pairs of different methods whose settings agree in all fields that both have, in a ranked score.

    Pairs without a common seed are left out; pairs whose test tells nothing are no tests for Holm's method.
    """
    if not column.direction:
        return []
    candidates = [
        (first, second, test)
        for first, second in combinations(groups, 2)
        if first.method != second.method and agree(first.setting, second.setting)
        if (test := paired_test(column, first, second))
    ]
    pairs = []
    for (first, second, test), p in zip(candidates, holm([test.p for *_, test in candidates]), strict=True):
        better = first if column.direction * test.difference.value > 0 else second
        pairs.append(Pair(first, second, test, p, better if p < SIGNIFICANT else None))
    return pairs


def p_of_lead(column: Column, groups: Sequence[Group], first: int, second: int) -> float:
    """p of the paired test of groups[first] and groups[second], corrected by Holm's method; NaN where there is none.

    For all pairs of the score; two groups of different settings are none of those, and are corrected for any two.
    """
    for pair in group_pairs(column, groups):
        if pair.first in (groups[first], groups[second]) and pair.second in (groups[first], groups[second]):
            return pair.p_holm
    any_two = list(combinations(range(len(groups)), 2))
    tests = [paired_test(column, groups[one], groups[other]) for one, other in any_two]
    corrected = holm([test.p if test else math.nan for test in tests])
    return corrected[any_two.index((min(first, second), max(first, second)))]


def pair_rows(columns: Sequence[Column], groups: Sequence[Group]) -> list[dict[str, Any]]:
    """A flat record for each score and pair, for comparison.json and pairs.csv; None is what is not known."""
    records = []
    for column in columns:
        for pair in group_pairs(column, groups):
            difference = pair.test.difference
            record: dict[str, Any] = {"first": pair.first.method, "second": pair.second.method}
            record |= {
                **named_setting(pair.setting),
                "score": column.title,
                "better": "higher" if column.direction > 0 else "lower",
            }
            record |= {"seeds": pair.test.pairs, "difference": difference.value}
            record |= {"difference_low": difference.low, "difference_high": difference.high}
            record |= {"p": pair.test.p, "p_holm": pair.p_holm, "winner": pair.winner and pair.winner.method}
            records.append({name: known(value) for name, value in record.items()})
    return records


def beaten_columns(columns: Sequence[Column], groups: Sequence[Group]) -> list[Column]:
    """How many others each group beats in every ranked score, with their names; none where no pair could be tested."""
    found = []
    for column in columns:
        pairs = group_pairs(column, groups)
        tested = sum(not math.isnan(pair.p_holm) for pair in pairs)
        if not tested:
            continue
        beaten = [[_name(pair.loser, group) for pair in pairs if pair.winner is group] for group in groups]
        note = f"{tested} pair{'s' * (tested > 1)}"
        counts = [float(len(names)) for names in beaten]
        details = ["\n".join(names) for names in beaten]
        found.append(Column(column.name, counts, note=note, fixed_decimals=0, details=details, marked=()))
    return found


def _name(group: Group, beside: Group) -> str:
    """A method, with the fields that tell it from others of its name in the same setting."""
    return group_label(group.method, {n: v for n, v in group.setting.items() if beside.setting[n] is None})
