"""The comparison as files for a spreadsheet, a README and a paper: CSV, Markdown, LaTeX.

CSV holds every number in full, Markdown and LaTeX the means of the scores at the digits of the report, with the best in
bold and a dagger where the difference from the baseline is significant, and a LaTeX table of who beats whom.
"""

from pathlib import Path
from typing import Any

from wvq.tokenizer.storage.atomic import write_csv, write_file

from .columns import Column, table_columns
from .groups import difference_columns, group_rows, mean_columns
from .pairs import beaten_columns
from .words import power_of_seeds

ARROWS = {1: "↑", -1: "↓", 0: ""}
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "±": r"$\pm$",
    "†": r"$^\dagger$", "\N{EN DASH}": "--", "→": r"$\to$",
}  # fmt: skip


def write_tables(folder: Path, comparison: dict[str, Any]) -> None:
    """Write comparison.csv (a row for each run), statistics.csv (a row for each score of each group), comparison.md and
    comparison.tex, and where there are pairs of methods pairs.csv (a row for each score of each pair), and pairs.tex if
    some could be tested, from the content of comparison.json."""
    runs = [_flat(row) for row in comparison["rows"]]
    names = dict.fromkeys(name for run in runs for name in run)
    write_csv(folder / "comparison.csv", [{name: run.get(name) for name in names} for run in runs])
    write_csv(folder / "statistics.csv", comparison["statistics"])
    write_file(folder / "comparison.md", markdown(comparison).encode())
    write_file(folder / "comparison.tex", latex(comparison).encode())
    if comparison["pairs"]:
        write_csv(folder / "pairs.csv", comparison["pairs"])
    if any(pair["p"] is not None for pair in comparison["pairs"]):
        write_file(folder / "pairs.tex", latex_of_pairs(comparison).encode())


def markdown(comparison: dict[str, Any]) -> str:
    """The table of means with a line on how to read it."""
    header, body = _table(comparison, bold="**{}**")
    rule = ["---" if number < _names(comparison) else "---:" for number in range(len(header))]
    rows = [[cell.replace("|", r"\|") for cell in row] for row in (header, rule, *body)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", legend(comparison), ""])


def plain(comparison: dict[str, Any]) -> str:
    """The same for a terminal, in columns; the best have a star."""
    header, body = _table(comparison, bold="{}*")
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    names = _names(comparison)

    def line(row: list[str]) -> str:
        cells = zip(row, widths, strict=True)
        return "  ".join(c.ljust(w) if n < names else c.rjust(w) for n, (c, w) in enumerate(cells)).rstrip()

    how_to_read = legend(comparison).replace("Bold is best", "* is best")
    return "\n".join([*map(line, (header, *body)), how_to_read])


def latex(comparison: dict[str, Any]) -> str:
    """The same as a booktabs tabular; the line on how to read it stands in a comment."""
    header, body = _table(comparison, bold="\0{}\1")
    return _booktabs(header, body, _names(comparison), legend(comparison))


def latex_of_pairs(comparison: dict[str, Any]) -> str:
    """Whom each method beats in each score, as a booktabs tabular."""
    rows = comparison["rows"]
    groups, columns = group_rows(rows), table_columns(rows)
    beaten = beaten_columns(columns, groups)
    header = ["Method", *groups[0].setting, *(f"{column.title} ({column.note})" for column in beaten)]
    body = []
    for number, group in enumerate(groups):
        cells = [column.details[number].replace("\n", ", ") or "\N{EN DASH}" for column in beaten]
        body.append([group.method, *map(_setting_text, group.setting.values()), *cells])
    note = "methods that each row beats with p < 0.05 (paired t test over seeds, Holm's correction for all pairs)"
    return _booktabs(header, body, len(header), f"In each column {note}. {power_of_seeds(groups)}")


def _booktabs(header: list[str], body: list[list[str]], names: int, note: str) -> str:
    """A tabular whose first columns, `names`, are words; the note stands in a comment."""
    lines = [f"% {note}", r"% \usepackage{booktabs}"]
    lines.append(rf"\begin{{tabular}}{{{'l' * names}{'r' * (len(header) - names)}}}")
    rows = [" & ".join(map(_escape, row)) + r" \\" for row in (header, *body)]
    return "\n".join([*lines, r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule", r"\end{tabular}", ""])


def legend(comparison: dict[str, Any]) -> str:
    """How to read the table of means."""
    groups = group_rows(comparison["rows"])
    parts = ["Bold is best at the digits shown"]
    if max(len(group.rows) for group in groups) > 1:
        parts.append("± is half of the 95 % t interval of the mean over seeds")
        if len({group.method for group in groups}) > 1:
            baseline = comparison["baseline"]
            parts.append(f"† differs from {baseline} with p < 0.05 (paired t test over seeds, Holm's correction)")
    return f"{'; '.join(parts)}. {power_of_seeds(groups)}"


def _names(comparison: dict[str, Any]) -> int:
    """Columns of words, which are aligned to the left: the method and its setting."""
    return 1 + len(comparison["rows"][0]["setting"])


def _table(comparison: dict[str, Any], bold: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the means, as text."""
    groups = group_rows(comparison["rows"])
    columns = [column for column in table_columns(comparison["rows"]) if column.in_means]
    differences = {
        column.title: column.marked for column in difference_columns(columns, groups, comparison["baseline"])
    }
    means = mean_columns(columns, groups)
    header = ["Method", *groups[0].setting, *(f"{mean.title} {ARROWS[mean.direction]}".rstrip() for mean in means)]
    body = []
    for number, group in enumerate(groups):
        cells = [_cell(mean, number, bold, number in (differences.get(mean.title) or ())) for mean in means]
        body.append([group.method, *map(_setting_text, group.setting.values()), *cells])
    return header, body


def _cell(mean: Column, row: int, bold: str, significant: bool) -> str:
    value = mean.text(row).replace(",", "")
    value = bold.format(value) if row in mean.leaders() else value
    return f"{value} {mean.half_text(row).replace(',', '')}".strip() + "†" * significant


def _setting_text(value: Any) -> str:
    return "\N{EN DASH}" if value is None else str(value)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row of comparison.json without nesting."""
    flat = {key: value for key, value in row.items() if not isinstance(value, dict)}
    groups = ("setting", "sampling", "steps", "seconds")
    nested = {f"{key}.{name}": value for key in groups for name, value in row.get(key, {}).items()}
    return flat | nested


def _escape(text: str) -> str:
    escaped = "".join(_LATEX.get(letter, letter) for letter in text)
    return escaped.replace("\0", r"\textbf{").replace("\1", "}")
