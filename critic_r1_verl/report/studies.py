# SPDX-License-Identifier: Apache-2.0
"""Shows the table of studies (study/table.py) on the terminal, in Markdown and as a picture of the differences."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from critic_r1_verl import foreign
from critic_r1_verl.files import replacing
from critic_r1_verl.report.charts import Effect, forest_chart
from critic_r1_verl.report.figures import DASH, DETAILS, HEADLINE, written
from critic_r1_verl.report.terminal import new_table
from critic_r1_verl.study.table import MEASURES, Table

COLUMNS = ("mean", "seeds", "n", "difference", "its seeds")
DRAWN = ("accuracy", "greedy")
"""The measures in the picture."""

_TITLES = {measure.key: measure.title for measure in (*HEADLINE, *DETAILS) if MEASURES.get(measure.key) == measure.part}


def show(table: Table) -> None:
    """Print one table for each measure, and what is missing."""
    console = foreign.console()
    for key in MEASURES:
        shown = new_table("study", *COLUMNS)
        for name, *cells in rows(table, key):
            # On two lines, the widest row fits into 80 columns.
            shown.add_row(name, *(cell.replace(" [", "\n[") for cell in cells))
        console.print(f"{_title(key)}:")
        console.print(shown)
        console.print()
    for line in _remarks(table):
        console.print(line)


def write(table: Table, folder: Path) -> None:
    """Write study.md and study.svg."""
    with replacing(folder / "study.md") as partial:
        partial.write_text(markdown(table), encoding="utf-8", newline="\n")
    compared = [each for each in table["studies"] if any(_difference(each, key) for key in DRAWN)]
    panels = {f"{_TITLES[key]}, points from {table['reference']}": [_effect(_difference(each, key)) for each in compared] for key in DRAWN}
    with replacing(folder / "study.svg") as partial:
        partial.write_text(forest_chart([each["name"] for each in compared], panels) + "\n", encoding="utf-8")


def rows(table: Table, key: str) -> list[tuple[str, ...]]:
    """The name of each study that has this measure, and its cells below COLUMNS."""
    found: list[tuple[str, ...]] = []
    for each in table["studies"]:
        if cell := each["measures"][key]:
            difference = cell["difference"]
            numbers = (_mean(key, cell), _seeds(key, cell), f"{cell['n']:,}", _mean(key, difference, True), _seeds(key, difference, True))
            found.append((each["name"], *numbers))
    return found


def markdown(table: Table) -> str:
    """A section for each measure, and what is missing."""
    lines = []
    for key in MEASURES:
        lines += [f"### {_title(key)}", "", "| study | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
        lines += ["| " + " | ".join(foreign.visible(cell).replace("|", "\\|") for cell in row) + " |" for row in rows(table, key)]
        lines.append("")
    return "\n".join(lines + [foreign.visible(f"{line}\n") for line in _remarks(table)])


def _title(key: str) -> str:
    return _TITLES[key] if key == "completion_tokens" else f"{_TITLES[key]}, percent"


def _remarks(table: Table) -> list[str]:
    return [
        "mean: over all items and seeds, with the 95 % interval that the choice of items leaves; seeds: the lowest and the highest; "
        f"difference: from {table['reference']}, paired by item and seed; n: values in the mean.",
        *(f"Missing: {each['study']}, seed {each['seed']}: {each['why']}." for each in table["missing"]),
        *(f"Note: {note}." for note in table["notes"]),
    ]


def _mean(key: str, numbers: Mapping[str, Any] | None, sign: bool = False) -> str:
    value, interval = written(key, dict(numbers) if numbers else None, sign=sign)
    return f"{value} [{interval}]" if interval else value


def _seeds(key: str, numbers: Mapping[str, Any] | None, sign: bool = False) -> str:
    """The lowest and the highest mean of a seed; a dash for fewer than two seeds."""
    means = list(numbers["by_seed"].values()) if numbers else []
    if len(means) < 2:
        return DASH
    low, high = (written(key, {"value": mean, "ci95": (mean, mean)}, sign=sign)[0] for mean in (min(means), max(means)))
    return f"{low} to {high}"


def _difference(study: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    return (study["measures"][key] or {}).get("difference")


def _effect(difference: Mapping[str, Any] | None) -> Effect | None:
    if difference is None:
        return None
    low, high = difference["ci95"]
    return Effect(difference["value"], low, high, tuple(difference["by_seed"].values()))
