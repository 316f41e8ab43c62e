# SPDX-License-Identifier: Apache-2.0
"""Collects the contents of a report: the runs of one model, those of other models on the same sets, and the steps of a training.

All numbers are computed here from the lines of the run folders; page.py and terminal.py only display them.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from critic_r1_verl.lines import Selection
from critic_r1_verl.scoring.compare import Comparison, compare_runs, runs_by_name
from critic_r1_verl.scoring.diagnosis import diagnose
from critic_r1_verl.scoring.run import Metrics, Run, metrics
from critic_r1_verl.scoring.sweep import sweep

Series = Literal["base", "trained", "control"]
"""The role of a model in a report: the model itself is "trained"; "base" and "control" are those that it is compared with."""


@dataclass(frozen=True, slots=True)
class Set:
    """One set of pairs and questions: the run, the metrics and the comparison with the base of each role, in the order of Series.

    sweep and diagnosis: those of the model that the report is about, None if it has none.
    """

    name: str
    runs: dict[Series, Run]
    metrics: dict[Series, Metrics]
    differences: dict[Series, Comparison]
    sweep: dict[str, Any] | None
    diagnosis: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Report:
    """labels: the display name of each role, in the order of Series. steps: the metrics that a training logged at each step, may be {}."""

    labels: dict[Series, str]
    sets: list[Set]
    steps: dict[int, dict[str, Any]]


def collect(runs: Path, *, against: Path | None = None, control: Path | None = None, training: Path | None = None) -> Report:
    """The report about the run folders at or below `runs`.

    ValueError names a missing or malformed file and the command that writes it, and a set that is missing in another model's folder.
    """
    folders: dict[Series, Path] = {"trained": runs}
    if against:
        folders = {"base": against, **folders}
    if control:
        folders["control"] = control
    found: dict[Series, dict[str, Run]] = {role: runs_by_name(folder) for role, folder in folders.items()}
    sets = []
    for name in found["trained"]:
        if missing := [role for role in found if name not in found[role]]:
            raise ValueError(f"{folders[missing[0]]}: has no run {name!r}, which {runs} has; measure the same sets with both models")
        of_set = {role: found[role][name] for role in found}
        numbers = {role: metrics(run) for role, run in of_set.items()}
        others = [role for role in of_set if role != "base"] if against else []
        differences: dict[Series, Comparison] = {role: compare_runs(of_set["base"], of_set[role]) for role in others}
        run = of_set["trained"]
        plan = run.plan if run.has(Selection) else None
        curve = sweep(run) if plan and len(plan.samples) > 1 else None
        reasons = diagnose(run) if plan and "duel" in plan.methods else None
        sets.append(Set(name, of_set, numbers, differences, curve, reasons))
    return Report(_labels(folders), sets, read_steps(training) if training else {})


def numbers(report: Report) -> dict[str, Any]:
    """The contents of a report as JSON."""
    return {
        "labels": report.labels,
        "sets": [{name: getattr(each, name) for name in ("name", "metrics", "differences", "sweep", "diagnosis")} for each in report.sets],
        "steps": report.steps,
    }


def read_steps(path: Path) -> dict[int, dict[str, Any]]:
    """The steps of training.jsonl, one {"step", "data"} per line; if a resumed run logged a step again, its later line counts.

    ValueError names the file, and the line that is not a step.
    """
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); `critic-r1 train` writes it beside its log") from error
    steps: dict[int, dict[str, Any]] = {}
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
            steps[int(line["step"])] = dict(line["data"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{path}:{number}: not a step {{"step", "data"}} ({type(error).__name__}: {error})') from error
    return dict(sorted(steps.items()))


def _labels(folders: dict[Series, Path]) -> dict[Series, str]:
    """The names of the folders if they are all different, else their paths."""
    names = {role: folder.resolve().name for role, folder in folders.items()}
    return names if len(set(names.values())) == len(names) else {role: str(folder) for role, folder in folders.items()}
