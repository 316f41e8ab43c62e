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


def show_sweep(sweep: dict[str, Any]) -> None:
    """Print a line for each method and number of samples."""
    console = foreign.console()
    shown = new_table("percent", "samples", "tokens", "right", "against\nthe vote", "against\ngreedy")
    for point in sorted(sweep["points"], key=lambda point: (point["method"], point["samples"])):
        cells = [_with_interval(point[name], sign=name != "accuracy") for name in ("accuracy", "against_vote", "against_greedy")]
        if point["beyond"]:
            cells[1] = cells[1].replace("\n", "*\n", 1)
        shown.add_row(METHOD_TITLES[point["method"]], f"{point['samples']}", f"{point['tokens']:,.0f}", *cells)
    console.print(shown)
    winner = sweep["winner"]
    console.print(
        f"n = {sweep['questions']:,} questions. The vote is the one of as many tokens; * it has fewer, because only {sweep['max_samples']} "
        "samples were drawn. Differences are paired, in points."
    )
    best = f"{METHOD_TITLES[winner['method']].lower()} among {winner['samples']}" if winner["samples"] else "nothing is above the vote"
    console.print(f"Best at equal tokens: {best}.")


def write_chart(sweep: dict[str, Any], out: Path) -> None:
    """Write accuracy against tokens as an SVG file."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for point in sorted(sweep["points"], key=lambda point: point["tokens"]):
        curves.setdefault(METHOD_TITLES[point["method"]], []).append((point["tokens"], point["accuracy"]["value"]))
    with replacing(out) as partial:
        partial.write_text(series_chart("tokens of a question", curves, file_width=760) + "\n", encoding="utf-8")


def show_diagnosis(diagnosis: dict[str, Any]) -> None:
    """Print a line for each measure that has a value."""
    shown = new_table("percent, or words", "value", "95 % interval", "n")
    for name, found in diagnosis.items():
        if found["n"]:
            value, interval = written("completion_tokens" if name in WORDS else "", found)
            shown.add_row(found["title"], value, f"[{interval}]", f"{found['n']:,}")
    foreign.console().print(shown)


def _with_interval(estimate: dict[str, Any] | None, *, sign: bool) -> str:
    value, interval = written("", estimate, sign=sign)
    return f"{value}\n{interval}"
