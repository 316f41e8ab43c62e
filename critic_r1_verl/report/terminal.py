# SPDX-License-Identifier: Apache-2.0
"""Numbers and judgements as tables on the terminal."""

from collections.abc import Sequence
from typing import Any

from critic_r1_verl import foreign
from critic_r1_verl.records import to_record
from critic_r1_verl.report import figures
from critic_r1_verl.report.collect import Report, Set
from critic_r1_verl.report.figures import DETAILS, HEADLINE, Measure, percent, written
from critic_r1_verl.scoring.run import Metrics


def show_metrics(metrics: Metrics) -> None:
    """Print the numbers of one run or of published results."""
    console = foreign.console()
    counts = metrics["counts"]
    read_by = {"own": "the benchmark's own format", "box": "the box"}.get(metrics["verdicts_read_by"] or "")
    facts = [f"{counts['items']:,} items"] if counts["items"] else []
    if read_by:
        facts += [f"{counts['pairs']:,} pairs in both orders", f"{counts['repeats']} repeat(s)", f"official verdicts read by {read_by}"]
    if counts["questions"]:
        facts += [f"{counts['questions']:,} questions", *([f"{counts['samples']} samples each"] if counts["samples"] else [])]
    console.print(f"{metrics['name']}: {', '.join(facts)}")
    if metrics["official"]:
        _show_scores(console, metrics)
    if metrics["critic"] or metrics["policy"]:
        table = new_table("percent", "value", "95 % interval", "n")
        for measure in (*HEADLINE, *DETAILS):
            if found := measure.estimate(metrics):
                value, interval = written(measure.key, found, digits=2)
                table.add_row(measure.title.lower(), value, f"[{interval}]", f"{found['n']:,}")
        for key in ("strict", "accuracy"):
            for group, found in figures.by_group(metrics["critic"] or {}, key):
                value, interval = written(key, found, digits=2)
                table.add_row(f"  {key}: {group}", value, f"[{interval}]", f"{found['n']:,}" if found else "0")
        console.print(table)
    for note in metrics["notes"]:
        console.print(f"Note: {note}.")


def show_summary(results: Sequence[Metrics]) -> None:
    """Print one line for each run."""
    table = new_table("percent", "items", "official", "strict", "95 % interval", "consistent", "prefers\nfirst", "unparsed", "greedy")
    for result in results:
        critic, policy = result["critic"] or {}, result["policy"] or {}
        strict, interval = written("strict", critic.get("strict"))
        table.add_row(
            result["name"],
            f"{result['counts']['items'] or result['counts']['questions']:,}",
            percent((result["official"] or {}).get("overall")),
            strict,
            f"[{interval}]" if interval else "",
            *(written(key, critic.get(key))[0] for key in ("position_consistency", "first_share", "unparsed")),
            written("greedy", policy.get("greedy"))[0],
        )
    foreign.console().print(table)


def show_comparison(comparison: dict[str, Any]) -> None:
    """Print a comparison (scoring/compare.py)."""
    console = foreign.console()
    table = new_table(f"{comparison['what']}, percent", "a", "b", "b - a", "95 % interval", "n")
    titles = {(measure.part, measure.key): measure.title.lower() for measure in (*HEADLINE, *DETAILS)}
    for part, measures in comparison["differences"].items():
        for key, found in measures.items():
            a, b = (written(key, found[side], digits=2)[0] for side in ("a", "b"))
            value, interval = written(key, found["difference"], digits=2, sign=True)
            table.add_row(titles.get((part, key), key), a, b, value, f"[{interval}]" if interval else "", f"{found['b']['n']:,}")
    console.print(table)
    if test := comparison["mcnemar"]:
        console.print(
            f"{test['items']} items; right in a alone {test['only_a']}, in b alone {test['only_b']}, exact McNemar p = {test['p']:.4g}"
        )


def show_report(report: Report) -> None:
    """Print the headline numbers of a report; intervals are on separate lines, so that the widest table fits into 80 columns."""
    console = foreign.console()
    for each in report.sets:
        table = new_table(f"{each.name}: percent", *columns(report))
        for row in rows(each, HEADLINE):
            table.add_row(f"{row['title']}\nn = {row['n']}", *(f"{value}\n{interval}" for value, interval in row["cells"]))
        console.print(table)
    notes = ["Below each value its 95 % interval", *(["differences are paired, in points"] if "base" in report.labels else [])]
    console.print("; ".join([*notes, *([f"control: {report.labels['control']}"] if "control" in report.labels else [])]) + ".")


def columns(report: Report) -> list[str]:
    """The titles of the cells in rows(), from left to right."""
    if "base" not in report.labels:
        return list(report.labels.values())
    control = ["control", "control\ndifference"] if "control" in report.labels else []
    return [report.labels["base"], report.labels["trained"], "difference", *control]


def rows(each: Set, measures: Sequence[Measure]) -> list[dict[str, Any]]:
    """One row for each of these measures that some model has: {title, note, n, cells: [(value, interval)]}."""
    found = []
    for measure in measures:
        estimates = {role: measure.estimate(metrics) for role, metrics in each.metrics.items()}
        known = [estimate for estimate in estimates.values() if estimate]
        if not known:
            continue
        cells = []
        for role, estimate in estimates.items():
            cells.append(written(measure.key, estimate))
            if role in each.differences:
                paired = each.differences[role]["differences"].get(measure.part, {}).get(measure.key)
                cells.append(written(measure.key, paired and paired["difference"], sign=True))
        counts = dict.fromkeys(f"{estimate['n']:,}" for estimate in known)
        found.append({"title": measure.title, "note": measure.note, "n": " / ".join(counts), "cells": cells})
    return found


def show_judgement(result: dict[str, Any]) -> None:
    """Print the result of evaluate.judge_one: the text and the verdict of each order, and whether they agree."""
    from rich.panel import Panel

    console = foreign.console()
    for line in result["judgements"]:
        shown = "response 1 first" if line["order"] == "12" else "response 2 first"
        choice = to_record(line["order"], line["choice"])
        verdict = figures.choice_in_words(choice) + (f" ({line['status']})" if choice is None else "")
        console.print(Panel(line["text"].strip() or "(empty)", title=f"{shown}: {verdict}", title_align="left"))
    preferred = result["preferred"]
    agreed = {None: "undecided: the two orders do not agree on a verdict", "tie": "a tie, in both orders"}
    console.print(agreed.get(preferred, f"response {preferred} is better, in both orders"))


def _show_scores(console: Any, metrics: Metrics) -> None:
    baselines = metrics["baselines"] or {}
    table = new_table("percent", "official", "strict", *(name.replace(" ", "\n") for name in baselines))
    strict = dict(figures.lines_of(metrics["strict"] or {}))
    for label, value in figures.lines_of(metrics["official"]):
        of_baselines = [[dict(figures.lines_of(each[which])).get(label) for which in ("official", "strict")] for each in baselines.values()]
        cells = ("/".join(map(percent, pair)) for pair in of_baselines)
        table.add_row(label, percent(value, 2), percent(strict.get(label), 2), *cells)
    console.print(table)
    if baselines:
        console.print("The last columns are the official/strict scores of rules that use only the length or the position of a response.\n")


def new_table(first: str, *others: str) -> Any:
    """A table without lines, with these column titles; all but the first column are aligned to the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right")
    return table
