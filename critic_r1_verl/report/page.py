# SPDX-License-Identifier: Apache-2.0
"""Writes a report as one self-contained HTML page, and its main chart as an SVG file. All text of models and corpora is escaped."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from critic_r1_verl import foreign
from critic_r1_verl.files import replacing
from critic_r1_verl.images import data_uri
from critic_r1_verl.lines import Judgement, Selection
from critic_r1_verl.records import Image, to_record
from critic_r1_verl.report import figures, selection, terminal
from critic_r1_verl.report.charts import CHART_STYLE, PALETTE, SMOOTHING_STEPS, Dot, dot_chart, line_chart, running_mean
from critic_r1_verl.report.collect import Report, Set
from critic_r1_verl.report.figures import DETAILS, HEADLINE, choice_in_words, percent
from critic_r1_verl.scoring.measures import of_methods
from critic_r1_verl.scoring.run import Run
from critic_r1_verl.select.candidates import by_question
from critic_r1_verl.select.methods import DEFAULT

Json = dict[str, Any]

# The metric that verl logs, its title, and whether it is a share.
CURVES = (
    ("reward/acc/mean", "Accuracy of sampled verdicts", True),
    ("reward/format/mean", "Well-formed outputs", True),
    ("reward/unparsed/mean", "Unparsed verdicts", True),
    ("critic/score/mean", "Mean score (reward)", True),
    ("response_length/mean", "Response length, tokens", False),
    ("timing_s/step", "Time per step, seconds", False),
)
NUM_PAIRS = 6
NUM_QUESTIONS = 4
# The outcome of a pair for one model, by the number of its right judgements in the first repeat.
OUTCOMES = {2: "right in both orders", 1: "right in one order", 0: "right in neither"}


def write(report: Report, out: Path) -> None:
    """Write the page of a report; the file appears only when it is complete. ValueError names a picture that cannot be read."""
    from markupsafe import Markup

    sets = [
        {
            "name": each.name,
            "models": [(report.labels[role], numbers["model"]) for role, numbers in each.metrics.items()],
            "counts": _counts(each),
            "chart": Markup(_headline_chart(report, each)),
            "columns": [title.replace("\n", " ") for title in terminal.columns(report)],
            "rows": terminal.rows(each, (*HEADLINE, *DETAILS)),
            "scores": _scores(each),
            "notes": each.metrics["trained"]["notes"],
            "pairs": _pair_examples(report, each),
            "questions": _question_examples(each.runs["trained"]),
            "selection": _selection(each),
        }
        for each in report.sets
    ]
    page = render(
        Path(__file__).with_name("report.html.j2"),
        title=" and ".join(report.labels.values()),
        has_base="base" in report.labels,
        has_control="control" in report.labels,
        sets=sets,
        curves=_curves(report.steps),
        smoothing_steps=SMOOTHING_STEPS,
    )
    with replacing(out) as partial:
        partial.write_text(page, encoding="utf-8", newline="\n")


def write_chart(report: Report, out: Path) -> None:
    """Write the chart of the first set as an SVG file, 760 pixels wide, with colours for light and dark themes."""
    with replacing(out) as partial:
        partial.write_text(_headline_chart(report, report.sets[0], file_width=760) + "\n", encoding="utf-8")


def render(template: Path, **values: Any) -> str:
    """The text of a page in the style of the report. template: a Jinja file, which also gets `style`, the CSS; all values are escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(template.parent), autoescape=True, finalize=_visible, undefined=StrictUndefined, trim_blocks=True
    )
    style = PALETTE + CHART_STYLE + Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return environment.get_template(template.name).render(style=Markup(style), **values)


def _visible(value: object) -> object:
    return foreign.visible(value) if type(value) is str else value


def _counts(each: Set) -> str:
    counts = each.metrics["trained"]["counts"]
    parts = []
    if counts["pairs"]:
        parts.append(f"{counts['pairs']:,} pairs, each judged in both orders, {counts['repeats']} time(s)")
    if counts["questions"]:
        samples = f", {counts['samples']} samples each" if counts["samples"] else ""
        parts.append(f"{counts['questions']:,} questions{samples}")
    return "; ".join(parts)


def _headline_chart(report: Report, each: Set, file_width: int | None = None) -> str:
    rows = []
    for measure in HEADLINE:
        found = {role: measure.estimate(metrics) for role, metrics in each.metrics.items()}
        dots = [Dot(role, estimate["value"], *estimate["ci95"]) for role, estimate in found.items() if estimate]
        if dots:
            rows.append((f"{measure.title} (lower is better)" if measure.key == "unparsed" else measure.title, dots))
    return dot_chart(rows, list(report.labels.items()), file_width=file_width)


def _scores(each: Set) -> Json | None:
    """The official and the strict score by group, and the official scores of the baselines: {columns, rows: (label, cells)}."""
    metrics = each.metrics["trained"]
    if not metrics["official"]:
        return None
    strict = dict(figures.lines_of(metrics["strict"] or {}))
    baselines = {name: dict(figures.lines_of(score["official"])) for name, score in (metrics["baselines"] or {}).items()}
    rows = [
        (label.strip(), [percent(value) for value in (official, strict.get(label), *(rule.get(label) for rule in baselines.values()))])
        for label, official in figures.lines_of(metrics["official"])
    ]
    return {"columns": ["Official", "Strict", *(name.capitalize() for name in baselines)], "rows": rows}


def _curves(steps: dict[int, Json]) -> Json | None:
    """{charts: [{title, first, last, svg}], missing: [title (metric)], num_steps}; first and last: the ends of the running mean.

    Step 0 is the validation before the training.
    """
    from markupsafe import Markup

    if not steps:
        return None
    charts, missing = [], []
    for metric, title, fraction in CURVES:
        points = [
            (step, data[metric]) for step, data in steps.items() if type(data.get(metric)) in (int, float) and math.isfinite(data[metric])
        ]
        if not points:
            missing.append(f"{title} ({metric})")
            continue
        smooth = running_mean([value for _, value in points])
        ends = [f"{percent(value)}\u00a0%" if fraction else f"{value:.1f}" for value in (smooth[0], smooth[-1])]
        charts.append({"title": title, "first": ends[0], "last": ends[1], "svg": Markup(line_chart(title, points, fraction=fraction))})
    return {"charts": charts, "missing": missing, "num_steps": sum(step > 0 for step in steps)}


def _picture_uri(root: Path, image: Image) -> str:
    """The data URI of an image as the model saw it. ValueError names a file that is no image or cannot be read."""
    try:
        return data_uri(root / image.path)
    except ValueError as error:
        raise ValueError(f"{error}; once it is deleted, `critic-r1 eval` with the same --out writes it again") from error


def _take_turns(groups: Sequence[list[str]], limit: int) -> list[str]:
    """At most `limit` items, taken from the groups in turn."""
    return [item for turn in zip_longest(*groups) for item in turn if item is not None][:limit]


def _pair_examples(report: Report, each: Set) -> Json | None:
    """{counts: [(outcome, number of pairs)], total, examples}: the outcomes in the first repeat, and examples of each in turn."""
    roles = [role for role in ("base", "trained") if role in each.runs and each.runs[role].has(Judgement)]
    if "trained" not in roles:
        return None
    run = each.runs["trained"]
    records = {record.pair_id: record for record in run.pairs}
    lines = {role: _first_repeat(each.runs[role]) for role in roles}
    outcome = {
        pair_id: ", then ".join(OUTCOMES[sum(line.correct for line in lines[role][pair_id].values())] for role in roles)
        for pair_id in records
    }
    counts = Counter(outcome.values())
    by_outcome = [sorted(pair_id for pair_id in records if outcome[pair_id] == name) for name in sorted(counts)]
    examples = []
    for pair_id in _take_turns(by_outcome, NUM_PAIRS):
        record = records[pair_id]
        views = []
        for role in roles:
            by_order = lines[role][pair_id]
            verdicts = [(order, choice_in_words(to_record(order, line.choice)), line.correct) for order, line in by_order.items()]
            texts = [(order, line.text) for order, line in by_order.items()]
            views.append({"model": report.labels[role], "texts": texts, "verdicts": verdicts})
        examples.append(
            {
                "images": [_picture_uri(run.folder, image) for image in record.images],
                "record": record,
                "preferred": choice_in_words(record.preferred),
                "outcome": outcome[pair_id],
                "views": views,
            }
        )
    return {"counts": sorted(counts.items()), "total": len(records), "examples": examples}


def _selection(each: Set) -> Json:
    """{sweep: {chart, columns, rows, notes} or None, diagnosis: rows or None}, for selection.py's rows."""
    from markupsafe import Markup

    sweep = each.sweep and {
        "chart": Markup(selection.sweep_chart(each.sweep)),
        "columns": [title.replace("\n", " ") for title in selection.COLUMNS],
        "rows": selection.sweep_rows(each.sweep),
        "notes": selection.sweep_notes(each.sweep),
    }
    return {"sweep": sweep, "diagnosis": each.diagnosis and selection.diagnosis_rows(each.diagnosis)}


def _first_repeat(run: Run) -> dict[str, dict[str, Judgement]]:
    """The judgements of the first repeat by pair_id and order, orders sorted."""
    found: dict[str, dict[str, Judgement]] = {}
    for line in run.judgements():
        if line.repeat == 0:
            found.setdefault(line.pair_id, {})[line.order] = line
    return {pair_id: dict(sorted(orders.items())) for pair_id, orders in found.items()}


def _question_examples(run: Run) -> Json | None:
    """{num_mixed, total, examples}: questions with both right and wrong samples come first."""
    if not run.has(Selection):
        return None
    records = {question.question_id: question for question in run.questions}
    samples = by_question(run.answers())
    picks = {method: {line.question_id: line for line in lines} for method, lines in of_methods(run.selections()).items()}
    shown = next((method for method in (DEFAULT, "knockout") if method in picks), next(iter(picks)))
    mixed = [question for question, answers in samples.items() if len({answer.correct for answer in answers}) == 2]
    # Right and wrong picks alternate, so that the page does not show only successes.
    picked_right = {question: picks[shown][question].correct >= 0.5 for question in mixed}
    chosen = _take_turns([[question for question in mixed if picked_right[question] is right] for right in (True, False)], NUM_QUESTIONS)
    chosen += [question for question in samples if question not in picked_right][: NUM_QUESTIONS - len(chosen)]
    examples = [
        {
            "images": [_picture_uri(run.folder, image) for image in records[question].images],
            "record": records[question],
            "samples": samples[question],
            "picks": [(figures.METHOD_TITLES[method], lines[question]) for method, lines in picks.items()],
            "sample": picks[shown][question].sample,
        }
        for question in chosen
    ]
    return {"num_mixed": len(mixed), "total": len(samples), "method": figures.METHOD_TITLES[shown], "examples": examples}
