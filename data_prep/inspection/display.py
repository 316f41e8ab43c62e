# SPDX-License-Identifier: Apache-2.0
"""The figures of a data folder as tables of text, and their output on the terminal."""

from collections.abc import Iterable
from dataclasses import dataclass

from critic_r1_verl import foreign
from critic_r1_verl.records import SPLITS
from data_prep.inspection.figures import Figures


@dataclass(frozen=True, slots=True)
class Table:
    """One table for the terminal and for the page. A cell is a text, or a text and a smaller text below it."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: list[tuple[str | tuple[str, str], ...]]


def tables(found: Figures) -> list[Table]:
    """The figures as tables of text."""
    sources = found["sources"]
    tokens = found["prompt_tokens"] or {}
    shown = [
        Table(
            "Rows",
            "Labels as shown: the first response is better, the second is better, or neither is (tie).",
            ("source", *SPLITS, "pairs", "questions", "first", "second", "tie"),
            [
                (name, *(f"{n:,}" for n in (*figure["rows"].values(), figure["pairs"], figure["questions"], *figure["labels"].values())))
                for name, figure in sources.items()
            ],
        ),
        Table(
            "How often a rule that does not look at the image is right, in percent",
            "Pairs with a preference; 95 % intervals. 50 is chance; a model can learn a rule that is far from it instead of judging.",
            ("source", "n", "longer wins", "first shown wins", "first in corpus wins"),
            [
                (name, f"{(figure['rules']['first_shown'] or {'n': 0})['n']:,}", *(_cell(rule, 100) for rule in figure["rules"].values()))
                for name, figure in sources.items()
            ],
        ),
        Table(
            "Characters in a response",
            "Means over the same pairs, with 95 % intervals.",
            ("source", "preferred", "other", "difference"),
            [(name, *(_cell(length, 1) for length in figure["lengths"].values())) for name, figure in sources.items()],
        ),
    ]
    if tokens.get("tokenizer"):
        note = f"Tokenizer {tokens['tokenizer']}; images are counted by the size rule of the processor."
        rows = [(name.replace("_", " "), f"{value:,}") for name, value in tokens.items() if isinstance(value, int)]
        shown.append(Table("Prompt tokens", note, ("tokens", "number"), [*rows]))
    for name, corpus in found["corpora"].items():
        counts = corpus["counts"]
        about = ", ".join(f"{key} {corpus[key]}" for key in ("revision", "licence", "grade") if corpus.get(key))
        reasons = sorted(counts["skipped"].items(), key=lambda reason: (-reason[1], reason[0]))
        lines = [("read", counts["read"]), ("kept", counts["kept"]), *((f"skipped: {reason}", n) for reason, n in reasons)]
        shown.append(Table(f"Corpus {name}", about, ("records", "number"), [(label, f"{n:,}") for label, n in lines]))
    return shown


def _cell(found: Figures | None, scale: int) -> tuple[str, str]:
    if found is None:
        return "–", ""
    # Adding 0.0 after rounding turns -0.0 into 0.0.
    value, low, high = (f"{round(scale * number, 1) + 0.0:,.1f}".replace("-", "−") for number in (found["value"], *found["ci95"]))
    return value, f"{low}, {high}"


def print_tables(shown: Iterable[Table]) -> None:
    from rich.table import Table as RichTable

    console = foreign.console()
    for table in shown:
        console.print(foreign.styled(f"\n{table.title}", "bold"))
        if table.note:
            console.print(foreign.styled(table.note, "dim"))
        grid = RichTable(box=None, show_edge=False, padding=(0, 2, 0, 0), pad_edge=False)
        grid.add_column(table.columns[0], overflow="fold")
        for name in table.columns[1:]:
            grid.add_column(name, justify="right", no_wrap=True)
        for row in table.rows:
            grid.add_row(*(cell if isinstance(cell, str) else "\n".join(cell) for cell in row))
        console.print(grid)
