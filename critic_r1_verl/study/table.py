# SPDX-License-Identifier: Apache-2.0
"""The numbers of all studies in a folder (run.py), computed from the lines of their measurements. They have the keys

    reference   the study that the others are compared with
    seeds       all seeds that some study was run with
    studies     [{"name", "seeds", "measures": {MEASURE: CELL or null}}], the base and the reference first
    missing     [{"study", "seed", "why"}] of every run that is not among them
    notes       remarks for the reader

where MEASURE is one of MEASURES, and a CELL is

    value, n, ci95   the mean over all items and seeds, the number of values, and the 95 % interval that the choice of the items leaves: all
                     values of an item and of those in its cluster, of whatever seed, count as one draw (scoring/estimates.py)
    by_seed          {SEED: mean}
    difference       {"value", "n", "ci95", "by_seed"}, the same of the paired differences from the reference with the same seeds; null for
                     the reference, and for a study that has no seed in common with it
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from critic_r1_verl import stages
from critic_r1_verl.data_folder import RECORDS
from critic_r1_verl.files import file_sha256, read_object
from critic_r1_verl.scoring.estimates import Estimate, Values
from critic_r1_verl.scoring.run import measures_of
from critic_r1_verl.study.run import BASE, LAST_STAGE, REFERENCE, StudyRun, planned, studies

Table = dict[str, Any]

MEASURES = {
    "accuracy": "critic",
    "strict": "critic",
    "accuracy_chosen_first": "critic",
    "accuracy_chosen_second": "critic",
    "position_consistency": "critic",
    "unparsed": "critic",
    "completion_tokens": "critic",
    "greedy": "policy",
    "sample": "policy",
}
"""The measures in a table (scoring/measures.py), each with its part."""

_COMMON = ("data", "base", "overrides", "measuring")
"""What two runs have in common in config.json if they can be compared."""


@dataclass(frozen=True, slots=True)
class _Measured:
    """A finished run: the version of the code, what it must have in common with others, and the values of MEASURES that it has."""

    run: StudyRun
    code: str
    common: Mapping[str, Any]
    values: Mapping[str, Values]


BySeed = Mapping[int, _Measured]


def tabulate(out: Path) -> Table:
    """The table of all studies in a folder. ValueError if there is none that can be used."""
    order = studies()
    measured, missing = _collect(out)
    if not measured:
        reasons = "; ".join(f"{run.name}: {why}" for run, why in missing.items())
        raise ValueError(f"{out}: no study here has finished ({reasons or 'there is none'}); `critic-r1 study run` makes them")
    by_study: dict[str, dict[int, _Measured]] = {name: {} for name in order}
    for each in measured:
        by_study.setdefault(each.run.study, {})[each.run.seed] = each
    seeds = sorted({each.run.seed for each in measured if each.run.study != BASE})
    ran = {each.run for each in measured}
    if any(each.run.study in order and each.run.study != BASE for each in measured):
        missing |= {run: "not run" for run in planned(["all"], seeds, out) if run not in ran and run not in missing}
    return {
        "reference": REFERENCE,
        "seeds": seeds,
        "studies": [
            {"name": name, "seeds": sorted(runs), "measures": {key: _cell(name, by_study, key) for key in MEASURES}}
            for name, runs in by_study.items()
            if runs
        ],
        "missing": [
            {"study": run.study, "seed": run.seed, "why": why}
            for run, why in sorted(missing.items(), key=lambda item: (item[0].study, item[0].seed))
        ],
        "notes": _notes(measured),
    }


def _collect(out: Path) -> tuple[list[_Measured], dict[StudyRun, str]]:
    """The finished runs that can be compared, and of every other run in the folder why it is not among them."""
    measured, missing = [], {}
    for folder in out.glob("*/seed-*"):
        if not re.fullmatch(r"seed-(0|[1-9][0-9]*)", folder.name):
            continue
        run = StudyRun(folder.parent.name, int(folder.name.removeprefix("seed-")), folder)
        try:
            measured.append(_read(run))
        except (ValueError, OSError) as error:
            missing[run] = str(error)
    measured.sort(key=lambda each: (each.run.study != REFERENCE, each.run.study, each.run.seed))
    comparable = []
    for each in measured:
        if changed := stages.differences(measured[0].common, each.common):
            missing[each.run] = f"not comparable with {measured[0].run.name}: {'; '.join(changed)}"
        else:
            comparable.append(each)
    return comparable, missing


def _read(run: StudyRun) -> _Measured:
    """A finished run. ValueError if it is not finished, or if its files cannot be used."""
    if LAST_STAGE not in (done := stages.finished(run.folder)):
        raise ValueError(f"stopped after {list(done)[-1]}" if done else "stopped before the first stage was finished")
    config = read_object(run.folder / stages.CONFIG, "remove the folder, and run the study again")
    if (config.get("study"), config.get("seed")) != (run.study, run.seed):
        raise ValueError(f"{run.folder} holds the study {config.get('study')!r} with the seed {config.get('seed')}; move it back")
    found = measures_of(run.measured)
    values = {key: found[part][key]() for key, part in MEASURES.items() if part in found and key in found[part]}
    common = {key: config.get(key) for key in _COMMON} | {"items": file_sha256(run.measured.folder / RECORDS)}
    return _Measured(run, str(config.get("code")), common, {key: of_key for key, of_key in values.items() if of_key})


def _cell(name: str, by_study: Mapping[str, BySeed], key: str) -> dict[str, Any] | None:
    """The numbers of a measure of one study; None if it was not measured."""
    after, before = ({seed: run.values[key] for seed, run in by_study[each].items() if key in run.values} for each in (name, REFERENCE))
    if not after:
        return None
    cell = _numbers(_pooled(after).estimate(), {seed: values.estimate() for seed, values in after.items()})
    if name == BASE:
        # It has no seed of its own, so it is compared with the reference of each seed.
        after = dict.fromkeys(before, next(iter(after.values())))
    shared = sorted(after.keys() & before.keys()) if name != REFERENCE else []
    if not shared:
        return cell | {"difference": None}
    difference = _pooled({seed: after[seed] for seed in shared}).difference(_pooled({seed: before[seed] for seed in shared}))
    return cell | {"difference": _numbers(difference, {seed: after[seed].difference(before[seed]) for seed in shared})}


def _pooled(by_seed: Mapping[int, Values]) -> Values:
    """The values of all seeds as those of one measure; a value and those of other seeds for the same item are in one cluster."""
    some = next(iter(by_seed.values()))
    values = {(item, seed, *rest): value for seed, of_seed in by_seed.items() for (item, *rest), value in of_seed.values.items()}
    return Values(values, some.clusters, some.bounded)


def _numbers(estimate: Estimate, by_seed: Mapping[int, Estimate]) -> dict[str, Any]:
    return estimate.to_json() | {"by_seed": {str(seed): of_seed.value for seed, of_seed in sorted(by_seed.items())}}


def _notes(measured: list[_Measured]) -> list[str]:
    versions = {each.code for each in measured}
    return [f"the runs were made by {len(versions)} versions of the code: {', '.join(sorted(versions))}"] if len(versions) > 1 else []
