# SPDX-License-Identifier: Apache-2.0
"""A run directory -> one HTML page that needs nothing else, its chart as a file, and its table on the terminal.

    build(Path("runs/demo"), control=Path("runs/demo-control/metrics.json"))    # writes runs/demo/report.html

No number is computed that the run directory does not determine: estimates come from metrics.json, curves from training.jsonl, examples
from the records, judgements, answers and selections. All of the model's and the corpus's text is escaped.
"""

import base64
import json
import math
import mimetypes
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from critic_r1_verl.files import replacing
from critic_r1_verl.records import Image, PairRecord, QuestionRecord, RecordFile
from critic_r1_verl.report import benchmarks
from critic_r1_verl.report.charts import CHART_STYLE, PALETTE, SMOOTHING_STEPS, Dot, bar, dot_chart, line_chart, running_mean

Json = dict[str, Any]

# (key of metrics.json, its name, what one value of it is)
MEASURES = (
    ("critic_accuracy", "Critic accuracy", "right verdicts, over both orders"),
    ("position_consistency", "Position consistency", "pairs with the same response preferred in both orders"),
    ("unparsed_rate", "Unparsed verdicts", "lower is better"),
    ("policy_accuracy", "Policy accuracy", "right greedy answers"),
    ("single_accuracy", "One sample", "right sampled answers"),
    ("majority_accuracy", "Majority vote", "right answers by vote among the samples"),
    ("self_critique_accuracy", "Self-critique", "right answers picked by the model's own verdicts"),
)
# (metric in training.jsonl, title, whether it is a fraction)
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
# Outcomes of a pair, by whether the base's and the trained model's verdict are right.
OUTCOMES = {
    (False, True): "wrong, then right",
    (True, False): "right, then wrong",
    (True, True): "right both times",
    (False, False): "wrong both times",
}


def build(run_dir: Path, out: Path | None = None, control: Path | None = None) -> Path:
    """Write the page for a finished run, with the benchmarks that lie below it, or for these alone.

    Returns its path, `run_dir`/report.html unless `out` says otherwise.

    control: the metrics.json of a run with random labels, shown beside. ValueError names a missing or unusable file and what makes it.
    """
    sections = benchmarks.sections(run_dir, _picture_uri)
    # A folder of benchmarks alone has no training to report.
    trained = _training(run_dir, control) if control or (run_dir / "metrics.json").is_file() or not sections else {}
    page = render(Path(__file__).with_name("report.html.j2"), benchmarks=sections, **trained)
    out = out or run_dir / "report.html"
    with replacing(out) as partial:
        partial.write_text(page, encoding="utf-8", newline="\n")
    return out


def _training(run_dir: Path, control: Path | None) -> Json:
    """What the page says of a training: before, after, and on the way."""
    from markupsafe import Markup

    metrics = _read_metrics(run_dir / "metrics.json")
    control_metrics = _read_metrics(control, remedy="make demo-control") if control else None
    stages = metrics["stages"]
    longest = max(stages.values(), default=0.0) or 1.0
    return {
        "chart": Markup(_headline_chart(metrics, control_metrics)),
        "table": _table(metrics, control_metrics),
        "columns": ["Base", "Trained", "Difference", *(["Control", "Control diff."] if control else [])],
        "setup": _flatten(metrics["setup"]),
        "curves": _curves(_read_lines(run_dir / "training.jsonl", ("step", "data"))),
        "smoothing_steps": SMOOTHING_STEPS,
        "stages": [(name, _duration(seconds), Markup(bar(seconds / longest))) for name, seconds in stages.items()],
        "total": _duration(sum(stages.values())),
        "pairs": _pair_examples(run_dir),
        "questions": _question_examples(run_dir),
        "has_control": control_metrics is not None,
    }


def render(template: Path, **values: Any) -> str:
    """A page in the look of the report: a Jinja template, given its values and `style`, the style sheet. All text in it is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(template.parent), autoescape=True, finalize=_visible, undefined=StrictUndefined, trim_blocks=True
    )
    style = PALETTE + CHART_STYLE + Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return environment.get_template(template.name).render(style=Markup(style), **values)


def picture(run_dir: Path, out: Path, control: Path | None = None) -> Path:
    """Write the headline chart alone as an SVG file, 760 pixels wide, with colours for light and dark; return `out`."""
    metrics = _read_metrics(run_dir / "metrics.json")
    control_metrics = _read_metrics(control, remedy="make demo-control") if control else None
    with replacing(out) as partial:
        partial.write_text(_headline_chart(metrics, control_metrics, file_width=760) + "\n", encoding="utf-8")
    return out


def print_table(metrics: Json, control: Json | None = None) -> None:
    """Print the page's table; `metrics` and `control` are the contents of metrics.json files."""
    from rich.console import Console
    from rich.table import Table

    # Values and intervals on lines of their own, and no rules: the widest table, with a control, fits into 80 columns.
    table = Table(box=None, show_edge=False, padding=(0, 2, 1, 0), pad_edge=False)
    table.add_column("percent")
    for name in ["base", "trained", "difference", *(["control", "control\ndifference"] if control else [])]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in _table(metrics, control):
        table.add_row(f"{row['name']}\nn = {row['n']}", *(f"{cell['value']}\n{cell['interval']}" for cell in row["cells"]))
    console = Console(highlight=False)
    console.print(table)
    console.print("Below each value its 95 % interval; differences are paired, in points.")


# Control characters but tab and newline, each as its picture.
_CONTROL_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {127: 0x2421}


def _visible(value: object) -> object:
    """Model text as a page can hold it: control characters as pictures, lone surrogates (no UTF-8 has them) as \\udXXX."""
    if type(value) is not str:
        return value
    return value.translate(_CONTROL_PICTURES).encode("utf-8", "backslashreplace").decode("utf-8")


# Reading


def _read_text(path: Path, remedy: str = "make demo") -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); `{remedy}` writes it") from error


def _read_metrics(path: Path, remedy: str = "make demo") -> Json:
    try:
        metrics = json.loads(_read_text(path, remedy))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}); `{remedy}` writes it anew") from error
    for part in ("base", "trained", "difference", "stages", "setup"):
        if not isinstance(metrics, dict) or not isinstance(metrics.get(part), dict):
            raise ValueError(f"{path}: '{part}' is missing or not an object; `{remedy}` writes it anew")
    for part in ("base", "trained", "difference"):
        for key, _, _ in MEASURES:
            if not _is_estimate(metrics[part].get(key)):
                raise ValueError(f"{path}: '{part}.{key}' must hold value, n and ci95 as finite numbers; `{remedy}` writes it anew")
    for name, seconds in metrics["stages"].items():
        if not _is_number(seconds) or seconds < 0:
            raise ValueError(f"{path}: 'stages.{name}' must be seconds, not {seconds!r}; `{remedy}` writes it anew")
    return metrics


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_estimate(value: object) -> bool:
    if not isinstance(value, dict) or not {"value", "n", "ci95"} <= value.keys() or not isinstance(value["ci95"], list):
        return False
    return len(value["ci95"]) == 2 and all(map(_is_number, [value["value"], value["n"], *value["ci95"]]))


def _read_lines(path: Path, keys: Sequence[str]) -> list[Json]:
    lines = []
    for number, text in enumerate(_read_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: not JSON ({error}); `make demo` writes it anew") from error
        missing = [key for key in keys if not isinstance(line, dict) or key not in line]
        if missing:
            raise ValueError(f"{path}:{number}: no {', '.join(map(repr, missing))}; `make demo` writes it anew")
        lines.append(line)
    return lines


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; `make demo` writes it")
    return path


def _picture_uri(root: Path, image: Image) -> str:
    """A data URI; the type comes from the file's name."""
    path = root / image.path
    kind = mimetypes.guess_type(path.name)[0] or ""
    if not kind.startswith("image/"):
        raise ValueError(f"{path}: not a picture by its name; records must name picture files")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error}); `make demo` writes it") from error
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


# Numbers


def _percent(value: float, *, sign: bool = False) -> str:
    """A fraction in percent with one decimal, a true minus, and no minus before a zero."""
    text = f"{100 * value + 0.0:{'+' if sign else ''}.1f}"
    return (text.lstrip("+-") if float(text) == 0 else text).replace("-", "−")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def _table(metrics: Json, control: Json | None) -> list[Json]:
    """One row a measure: key, name, note, cells ({value, interval, series} as text), n."""
    columns = [("base", metrics["base"]), ("trained", metrics["trained"]), ("difference", metrics["difference"])]
    if control:
        columns += [("control", control["trained"]), ("difference", control["difference"])]
    rows = []
    for key, name, note in MEASURES:
        cells = []
        for series, estimates in columns:
            value, (low, high), sign = estimates[key]["value"], estimates[key]["ci95"], series == "difference"
            interval = f"{_percent(low, sign=sign)}, {_percent(high, sign=sign)}"
            cells.append({"value": _percent(value, sign=sign), "interval": interval, "series": series})
        counts = dict.fromkeys(f"{metrics[part][key]['n']:,}" for part in ("base", "trained"))
        rows.append({"key": key, "name": name, "note": note, "cells": cells, "n": " / ".join(counts)})
    return rows


def _headline_chart(metrics: Json, control: Json | None, file_width: int | None = None) -> str:
    legend = [("base", "base"), ("trained", "trained")]
    sources = {"base": metrics["base"], "trained": metrics["trained"]}
    if control:
        legend.append(("control", "random labels"))
        sources["control"] = control["trained"]
    rows = []
    for key, name, _ in MEASURES:
        dots = [Dot(series, source[key]["value"], *source[key]["ci95"]) for series, source in sources.items()]
        rows.append((f"{name} (lower is better)" if key == "unparsed_rate" else name, dots))
    return dot_chart(rows, legend, file_width=file_width)


def _flatten(setup: Mapping[str, object]) -> list[tuple[str, str]]:
    """The free-form description as (name, text); one level of nesting and lists become one line."""
    entries = []
    for name, value in setup.items():
        if isinstance(value, dict):
            text = ", ".join(f"{key} {inner}" for key, inner in value.items())
        elif isinstance(value, list):
            text = ", ".join(map(str, value))
        else:
            text = str(value)
        entries.append((name.replace("_", " "), text))
    return entries


def _curves(lines: Iterable[Json]) -> Json:
    """{charts: [{title, first, last, svg}], missing: [title (metric)], num_steps}; first and last are ends of the running mean."""
    from markupsafe import Markup

    # A resumed run logs some steps twice: the later line is the one the checkpoint continued from.
    steps = {line["step"]: line["data"] for line in lines}
    charts, missing = [], []
    for metric, title, fraction in CURVES:
        points = [(step, steps[step][metric]) for step in sorted(steps) if _is_number(steps[step].get(metric))]
        if not points:
            missing.append(f"{title} ({metric})")
            continue
        smooth = running_mean([value for _, value in points])
        ends = [f"{_percent(value)}\u00a0%" if fraction else f"{value:.1f}" for value in (smooth[0], smooth[-1])]
        charts.append({"title": title, "first": ends[0], "last": ends[1], "svg": Markup(line_chart(title, points, fraction=fraction))})
    return {"charts": charts, "missing": missing, "num_steps": len(steps)}


# Examples


def _in_record_frame(choice: str | None, order: str) -> str:
    """What a verdict in the shown frame prefers, in the record's frame, as words."""
    if choice is None:
        return "no verdict"
    if choice == "tie":
        return "a tie"
    return f"response {order[int(choice) - 1]}"


def _take_turns(groups: Sequence[list[str]], limit: int) -> list[str]:
    """Up to `limit` items, one of each group in turn, in the groups' own order."""
    width = max(map(len, groups), default=0)
    return [group[turn] for turn in range(width) for group in groups if turn < len(group)][:limit]


def _pair_examples(run_dir: Path) -> Json:
    """{counts: {outcome: pairs}, total, examples}: outcomes of the first judgement in order 12, and pairs taken from them in turn."""
    path = run_dir / "data" / "test_pairs.jsonl"
    records = {record.pair_id: record for record in list(RecordFile(Path(_existing(path)), PairRecord))}
    models = {name: _judgements(run_dir / f"{name}_judgements.jsonl") for name in ("base", "trained")}
    shared = sorted({pair for pair, order in models["base"] if order == "12" and (pair, order) in models["trained"]})
    outcome = {pair: OUTCOMES[models["base"][pair, "12"]["correct"], models["trained"][pair, "12"]["correct"]] for pair in shared}
    counts = Counter(outcome.values())
    examples = []
    for pair in _take_turns([[pair for pair in shared if outcome[pair] == name] for name in OUTCOMES.values()], NUM_PAIRS):
        if pair not in records:
            raise ValueError(f"{path}: no pair {pair}, which base_judgements.jsonl judges; `make demo` writes both anew")
        record = records[pair]
        views = []
        for name, judgements in models.items():
            shown = [judgements[pair, order] for order in ("12", "21") if (pair, order) in judgements]
            verdicts = [line | {"choice": _in_record_frame(line["choice"], line["order"])} for line in shown]
            views.append({"model": name, "text": shown[0]["text"], "verdicts": verdicts})
        examples.append(
            {
                "images": [_picture_uri(run_dir / "data", image) for image in record.images],
                "record": record,
                "preferred": _in_record_frame(record.preferred, "12"),
                "outcome": outcome[pair],
                "views": views,
            }
        )
    return {"counts": [(name, counts[name]) for name in OUTCOMES.values()], "total": len(shared), "examples": examples}


def _judgements(path: Path) -> dict[tuple[str, str], Json]:
    """The first repeat of each (pair_id, order)."""
    lines = _read_lines(path, ("pair_id", "order", "repeat", "choice", "correct", "text"))
    for line in lines:
        if line["order"] not in ("12", "21") or line["choice"] not in ("1", "2", "tie", None):
            held = f"order {line['order']!r} and choice {line['choice']!r}"
            raise ValueError(f"{path}: a judgement of pair {line['pair_id']} has {held}; `make demo` writes it anew")
    last_first = sorted(lines, key=lambda line: line["repeat"], reverse=True)
    return {(line["pair_id"], line["order"]): line | {"correct": bool(line["correct"])} for line in last_first}


def _question_examples(run_dir: Path) -> Json:
    """{num_mixed, total, examples}: questions on which the trained model's samples disagree come first."""
    path = run_dir / "data" / "test_questions.jsonl"
    records = {record.question_id: record for record in list(RecordFile(Path(_existing(path)), QuestionRecord))}
    samples: dict[str, list[Json]] = {}
    for line in _read_lines(run_dir / "trained_answers.jsonl", ("question_id", "sample", "kind", "answer", "correct", "text")):
        if line["kind"] == "sample":
            samples.setdefault(line["question_id"], []).append(line)
    picks: dict[tuple[str, str], Json] = {
        (line["question_id"], line["method"]): line
        for line in _read_lines(run_dir / "trained_selections.jsonl", ("question_id", "method", "correct", "answer"))
    }
    asked = sorted(question for question in samples if (question, "self_critique") in picks)
    mixed = [question for question in asked if len({bool(line["correct"]) for line in samples[question]}) == 2]
    # Turns between right and wrong picks, so that the page does not show successes only.
    picked_right = {question: picks[question, "self_critique"]["correct"] >= 0.5 for question in mixed}
    chosen = _take_turns([[question for question in mixed if picked_right[question] is right] for right in (True, False)], NUM_QUESTIONS)
    chosen += [question for question in asked if question not in picked_right][: NUM_QUESTIONS - len(chosen)]
    examples = []
    for question in chosen:
        if question not in records:
            raise ValueError(f"{path}: no question {question}, which trained_answers.jsonl answers; `make demo` writes both anew")
        pick = picks[question, "self_critique"]
        lines = sorted(samples[question], key=lambda line: line["sample"])
        examples.append(
            {
                "images": [_picture_uri(run_dir / "data", image) for image in records[question].images],
                "record": records[question],
                "samples": [line | {"picked": _is_picked(line, pick)} for line in lines],
                "pick": pick,
                "majority": picks.get((question, "majority")),
            }
        )
    return {"num_mixed": len(mixed), "total": len(asked), "examples": examples}


def _is_picked(line: Json, pick: Json) -> bool:
    """Whether the selection is this sample; a selection that names no sample marks all with its answer."""
    return line["sample"] == pick["sample"] if "sample" in pick else line["answer"] == pick["answer"]
