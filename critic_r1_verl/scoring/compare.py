# SPDX-License-Identifier: Apache-2.0
"""Compares two runs or two files of results on the same items: paired differences with intervals, and the exact McNemar test."""

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from critic_r1_verl import foreign
from critic_r1_verl.benchmarks import tally
from critic_r1_verl.data_folder import RECORDS
from critic_r1_verl.records import PairRecord, RecordFile
from critic_r1_verl.scoring import judged as judging
from critic_r1_verl.scoring import measures
from critic_r1_verl.scoring.estimates import Values, mcnemar
from critic_r1_verl.scoring.run import Run, measures_of, runs_in
from critic_r1_verl.scoring.score import name_of, published

Comparison = dict[str, Any]

# Some judgements have no value of these measures, depending on the verdict or the engine, so that the values cannot always be paired.
_NOT_ALWAYS_PAIRED = ("first_share", "undecided", "completion_tokens")


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: a name that must be the same on both sides, and the measures by "critic" and "policy"."""

    what: str
    measures: dict[str, measures.Measures]


def compare_paths(a: Path, b: Path) -> tuple[list[Comparison], list[str]]:
    """The comparison of two files of results, or of the runs with the same name in two folders, and the names of all other runs.

    ValueError if one is a folder and the other a file, or if no run is in both folders.
    """
    if a.is_dir() != b.is_dir():
        raise ValueError(f"{a} and {b}: give two folders, or two files")
    if not a.is_dir():
        return [compare(_side(a), _side(b))], []
    first, second = (runs_by_name(folder) for folder in (a, b))
    shared, others = sorted(first.keys() & second.keys()), sorted(first.keys() ^ second.keys())
    if not shared:
        raise ValueError(f"{a} and {b} have no run of the same name, only {', '.join(others)}")
    return [compare_runs(first[name], second[name]) for name in shared], others


def compare_runs(a: Run, b: Run) -> Comparison:
    """The comparison of two run folders of the same set. stderr says if their models were shown different pixels."""
    before, after = (run.image_reading for run in (a, b))
    if before != after:
        foreign.say(f"{a.name}: images were read by version {before} for a, by version {after} for b (docs/data.md)", stderr=True)
    return compare(Side(a.name, measures_of(a)), Side(b.name, measures_of(b)))


def compare(a: Side, b: Side) -> Comparison:
    """For each measure of both sides, the two estimates and the paired difference b - a; and a McNemar test of the right items.

    The intervals take clusters into account; the test assumes independent items. ValueError names an item that only one side has.
    """
    if a.what != b.what:
        raise ValueError(f"{a.what} cannot be compared with {b.what}")
    result: Comparison = {"what": a.what, "differences": {}, "mcnemar": None}
    for part in [part for part in a.measures if part in b.measures]:
        of_part = {}
        for name in a.measures[part]:
            before = a.measures[part][name]()
            after = b.measures[part][name]() if name in b.measures[part] else None
            if before is None or after is None:
                continue
            unpaired = name.split("/")[0] in _NOT_ALWAYS_PAIRED and before.values.keys() != after.values.keys()
            difference = None if unpaired else after.difference(before).to_json()
            of_part[name] = {
                "a": before.estimate().to_json(),
                "b": after.estimate().to_json(),
                "difference": difference,
            }
            if name in ("strict", "right"):
                result["mcnemar"] = _mcnemar(before, after)
        result["differences"][part] = of_part
    return result


def _mcnemar(before: Values, after: Values) -> dict[str, float]:
    only_a = sum(value == 1 and after.values[key] == 0 for key, value in before.values.items())
    only_b = sum(value == 0 and after.values[key] == 1 for key, value in before.values.items())
    return {"items": len(before.values), "only_a": only_a, "only_b": only_b, "p": mcnemar(only_a, only_b)}


def runs_by_name(folder: Path) -> dict[str, Run]:
    """The runs at or below a folder by their path in it; by its own name, if the folder itself is a run. ValueError if there are none."""
    return {run.name if run.folder == folder else str(run.folder.relative_to(folder)): run for run in runs_in(folder)}


def _side(path: Path) -> Side:
    if results := published(path):
        module, found = results
        clusters: dict[str, Hashable] = {item.key: item.cluster for item in found.items}
        values = Values({(item.key,): item.right / (item.counted or 1) for item in found.items}, clusters)
        return Side(f"{name_of(module)}, published", {"critic": {"right": lambda: values}})
    records = RecordFile(path.parent / RECORDS, PairRecord)
    cases = tally.cases(records, lambda record: "")
    judged = judging.judged_of(judging.checked(path, records), None)
    judging.check_complete(judged, cases)
    return Side("judgements", {"critic": measures.critic(judged, judging.trials_of(judged), cases, measures.clusters_of(records))})
