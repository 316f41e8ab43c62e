# SPDX-License-Identifier: Apache-2.0
"""What `critic-r1 eval` left below a run directory -> the page's section on benchmarks: scores, what they hide, and some judgements."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from critic_r1_verl.records import Image, PairRecord
from critic_r1_verl.report.charts import Dot, dot_chart
from critic_r1_verl.scoring import score as scores

Json = dict[str, Any]

DEPTH = 3
"""Folders below the run directory in which a benchmark may lie."""
HIDDEN = (
    ("position_consistency", "Position consistency", "the same response preferred in both orders"),
    ("first_share", "Says the first", "of verdicts for one of the two; half without a bias"),
    ("accuracy_chosen_longer", "Right where the better response is longer", ""),
    ("accuracy_chosen_shorter", "Right where it is shorter", ""),
    ("ties", "Ties", "of all verdicts"),
    ("unparsed", "Unparsed", "no readable verdict; counts as wrong"),
)
# Of each kind one judgement is shown; the page says how many there are.
KINDS = ("right in both orders", "right in one order", "right in neither")


def find(run_dir: Path) -> list[Path]:
    """The folders of finished benchmarks below a run directory, or the directory itself, in order of name."""
    return sorted(file.parent for depth in range(DEPTH + 1) for file in run_dir.glob("*/" * depth + "score.json"))


def sections(run_dir: Path, picture_uri: Callable[[Path, Image], str]) -> list[Json]:
    """One for each benchmark: {name, model, facts, chart, columns, rows, hidden, kinds, examples, notes}."""
    from markupsafe import Markup

    return [_section(folder, picture_uri, Markup) for folder in find(run_dir)]


def _section(folder: Path, picture_uri: Callable[[Path, Image], str], markup: Callable[[str], Any]) -> Json:
    score, config = _read(folder / "score.json"), _read(folder / "config.json")
    try:
        estimates = score["estimates"]
        strict = dict(scores.figures(score["strict"]))
        baselines = {name: dict(scores.figures(each["official"])) for name, each in score["baselines"].items()}
        dots = [("all", estimates["strict"]), *estimates["strict_by_group"].items()]
        chart = dot_chart([(name, [Dot("trained", found["value"], *found["ci95"])]) for name, found in dots], [("trained", "strict")])
        judgements, records = scores.read(folder / "judgements.jsonl")
        tokens = estimates["completion_tokens"]
        return {
            "name": score["benchmark"],
            "model": config["model"],
            "facts": [
                (
                    "items",
                    f"{score['items']:,}, {score['pairs']:,} different pairs, each judged in both orders, {score['repeats']} time(s)",
                ),
                ("prompt", config["template"]["name"]),
                ("mean tokens", f"{tokens['value']:.0f}" if tokens else "not told"),
            ],
            "chart": markup(chart),
            "columns": ["Official", "Strict", *(name.capitalize() for name in baselines)],
            "rows": [
                (
                    label.strip(),
                    [scores.percent(each, 1) for each in (value, strict.get(label), *(of.get(label) for of in baselines.values()))],
                )
                for label, value in scores.figures(score["official"])
            ],
            "hidden": [(name, note, *_cells(estimates[key])) for key, name, note in HIDDEN],
            "notes": score["notes"],
            **_examples(folder, list(judgements), {record.pair_id: record for record in records}, picture_uri),
        }
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'score.json'}: {error} is missing or of another kind; `critic-r1 eval` writes it anew") from error


def _examples(
    folder: Path, judgements: list[Json], records: dict[str, PairRecord], picture_uri: Callable[[Path, Image], str]
) -> dict[str, list[Any]]:
    """kinds: (kind, pairs) by the first repeat; examples: the first pair of each kind, in the order of their ids."""
    first = {(line["pair_id"], line["order"]): line for line in judgements if line["repeat"] == 0}
    by_kind: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for pair_id in sorted({pair_id for pair_id, _ in first}):
        by_kind[KINDS[2 - sum(first[pair_id, order]["correct"] for order in ("12", "21"))]].append(pair_id)
    examples = []
    for kind, pair_ids in by_kind.items():
        for pair_id in pair_ids[:1]:
            record = records[pair_id]
            lines = [first[pair_id, order] for order in ("12", "21")]
            examples.append(
                {"kind": kind, "record": record, "images": [picture_uri(folder, image) for image in record.images], "lines": lines}
            )
    return {"kinds": [(kind, len(pair_ids)) for kind, pair_ids in by_kind.items()], "examples": examples}


def _cells(found: Json | None) -> tuple[str, str, str]:
    if found is None:
        return "–", "", "0"
    low, high = found["ci95"]
    return f"{100 * found['value']:.1f}", f"{100 * low:.1f}, {100 * high:.1f}", f"{found['n']:,}"


def _read(path: Path) -> Json:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); `critic-r1 eval` writes it") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a JSON object; `critic-r1 eval` writes it")
    return content
