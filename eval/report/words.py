"""The comparison in words: who is ahead in what, by how much, and what the seeds can tell."""

from collections.abc import Sequence
from typing import Any

from .columns import Column
from .groups import SIGNIFICANT, Group, mean_columns
from .pairs import p_of_lead
from .statistics import least_significant_effect

LISTED_GROUPS = 4  # more are counted


def summary(groups: Sequence[Group], columns: Sequence[Column]) -> str:
    """Who is ahead in what; ties at the digits shown, and leads that the seeds cannot tell from none, are said as such.

    `columns` are those of the runs, `groups` their rows.
    """
    means = mean_columns(columns, groups)
    ranked = [(column, mean) for column, mean in zip(columns, means, strict=True) if mean.direction and mean.measured()]
    counts = [len(group.rows) for group in groups]
    sentences = [_runs(groups, counts)]
    if max(counts) > 1:
        sentences.append("The numbers in this paragraph are means over seeds.")
    if len(groups) == 1:
        scores = _listing([f"{mean.name} {mean.text_with_unit(0)}" for _, mean in ranked])
        return " ".join([*sentences, f"{scores[0].upper()}{scores[1:]}.", "There is nothing to compare it with."])

    ahead: dict[str, list[str]] = {}
    level, narrow = [], []
    for column, mean in ranked:
        leaders = mean.leaders()
        others = [row for row in mean.measured() if row not in leaders]
        if leaders and not others:
            level.append(f"{mean.name} ({mean.text_with_unit(leaders[0])})")
        elif leaders:
            first, second = leaders[0], mean.best_of(others)
            other = f" for {groups[second].label}" if not groups[second].setting else ""  # which would be long
            numbers = f"{mean.text_with_unit(first)} against {mean.text_with_unit(second)}{other}"
            ahead.setdefault(_subject([groups[row].label for row in leaders]), []).append(f"{mean.name} ({numbers})")
            if p_of_lead(column, groups, first, second) >= SIGNIFICANT:
                narrow.append(mean.name)
    sentences += [f"{subject} in {_listing(scores)}." for subject, scores in ahead.items()]
    if level:
        sentences.append(f"At the digits shown, those measured are level in {_listing(level)}.")
    if narrow:
        sentences.append(
            f"In {_listing(narrow)} the lead over the second may be chance: p of their paired test over seeds, "
            f"corrected by Holm's method, is not below {SIGNIFICANT}."
        )
    if min(counts) == 1:
        sentences.append("Where there is one seed, how much a number varies between seeds is not known.")
    return " ".join(sentences)


def _runs(groups: Sequence[Group], counts: Sequence[int]) -> str:
    """How many runs there are, of what."""
    if len(groups) > LISTED_GROUPS and min(counts) == max(counts):
        methods = len({group.method for group in groups})
        settings = f" in {_count(len(groups), 'group')} of method and setting" if len(groups) > methods else ""
        return f"{sum(counts)} runs: {methods} methods{settings}, {_count(counts[0], 'seed')} each."
    parts = [f"{group.label} with {_count(count, 'seed')}" for group, count in zip(groups, counts, strict=True)]
    return f"{_count(sum(counts), 'run')}: {_listing(parts)}."


def _subject(names: Sequence[str]) -> str:
    return _listing(names) + (" is ahead" if len(names) == 1 else " are level with each other and ahead of the rest")


def power_of_seeds(groups: Sequence[Group]) -> str:
    """What a paired test can tell with the seeds of these groups."""
    count = max(len(group.rows) for group in groups)
    if count < 2:
        return "One seed: no interval, no test, and how much a number varies between seeds is not known."
    effect = least_significant_effect(count)
    return (
        f"With {count} seeds a paired t test has p below 0.05 only where the mean difference is at least {effect:.1f} "
        "times the standard deviation of the differences, before any correction; a difference that is not significant "
        "is no sign that two methods are equal."
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number > 1)}"


def _listing(items: Sequence[Any]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
