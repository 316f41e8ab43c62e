# SPDX-License-Identifier: Apache-2.0
"""Shows a sweep (scoring/sweep.py) as a table and a chart, and a diagnosis (scoring/diagnosis.py) as a table."""

from pathlib import Path
from typing import Any

from critic_r1_verl import foreign
from critic_r1_verl.files import replacing
from critic_r1_verl.report.charts import series_chart
from critic_r1_verl.report.figures import METHOD_TITLES, written
from critic_r1_verl.report.terminal import new_table
from critic_r1_verl.scoring.diagnosis import WORDS

Json = dict[str, Any]

COLUMNS = ("samples", "tokens", "right", "against\nthe vote", "against\ngreedy")


def sweep_rows(sweep: Json) -> list[tuple[str, list[str], list[tuple[str, str]]]]:
    """By method and number of samples: the title, samples and tokens, and a (value, interval) for each of the other columns."""
    rows = []
    for point in sorted(sweep["points"], key=lambda point: (point["method"], point["samples"])):
        cells = [written("", point[name], sign=name != "accuracy") for name in ("accuracy", "against_vote", "against_greedy")]
        if point["beyond"] and point["against_vote"]:
            cells[1] = f"{cells[1][0]}*", cells[1][1]
        rows.append((METHOD_TITLES[point["method"]], [str(point["samples"]), f"{point['tokens']:,.0f}"], cells))
    return rows


def sweep_notes(sweep: Json) -> str:
    """What the columns of a sweep mean, and its winner."""
    winner = sweep["winner"]
    best = f"{METHOD_TITLES[winner['method']].lower()} among {winner['samples']}" if winner["samples"] else "nothing is above the vote"
    return (
        f"n = {sweep['questions']:,} questions. The vote is the one of as many tokens; * it has fewer, because only {sweep['max_samples']} "
        f"samples were drawn. Differences are paired, in points. Best at equal tokens: {best}."
    )


def sweep_chart(sweep: Json, file_width: int | None = None) -> str:
    """Accuracy against tokens as SVG; see charts.series_chart."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for point in sorted(sweep["points"], key=lambda point: point["tokens"]):
        curves.setdefault(METHOD_TITLES[point["method"]], []).append((point["tokens"], point["accuracy"]["value"]))
    return series_chart("tokens of a question", curves, file_width=file_width)


def diagnosis_rows(diagnosis: Json) -> list[tuple[str, str, str, str]]:
    """The title, value, interval and n of each measure that has a value."""
    rows = []
    for name, found in diagnosis.items():
        if found["n"]:
            value, interval = written("completion_tokens" if name in WORDS else "", found)
            rows.append((found["title"], value, interval, f"{found['n']:,}"))
    return rows


def show_sweep(sweep: Json) -> None:
    """Print a sweep."""
    table = new_table("percent", *COLUMNS)
    for title, counts, cells in sweep_rows(sweep):
        table.add_row(title, *counts, *(f"{value}\n{interval}" for value, interval in cells))
    foreign.console().print(table)
    foreign.console().print(sweep_notes(sweep))


def show_diagnosis(diagnosis: Json) -> None:
    """Print a diagnosis."""
    table = new_table("percent, or words", "value", "95 % interval", "n")
    for title, value, interval, number in diagnosis_rows(diagnosis):
        table.add_row(title, value, f"[{interval}]", number)
    foreign.console().print(table)


def write_chart(sweep: Json, out: Path) -> None:
    """Write the chart of a sweep as an SVG file."""
    with replacing(out) as partial:
        partial.write_text(sweep_chart(sweep, file_width=760) + "\n", encoding="utf-8")
