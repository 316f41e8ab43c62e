# SPDX-License-Identifier: Apache-2.0
"""Judgements and records -> what a benchmark's official code says, and a strict score beside it, as shares in [0, 1].

official is the benchmark's own formula (benchmarks/). In strict an item counts only if the verdicts of both orders are for the right
response; an unparsed verdict is wrong, and of K repeats the verdict of an order is what more than half say.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from critic_r1_verl import benchmarks
from critic_r1_verl.benchmarks import reading, tally
from critic_r1_verl.benchmarks.tally import Case, Item
from critic_r1_verl.data_folder import RECORDS
from critic_r1_verl.lines import Judgement
from critic_r1_verl.records import PairRecord, RecordFile
from critic_r1_verl.scoring import judged as judging
from critic_r1_verl.scoring import measures

Score = dict[str, Any]

SCHEMA = 2


def score(judgements: Iterable[Judgement], records: Iterable[PairRecord], benchmark: str) -> Score:
    """Everything about one critic on one benchmark, with `critic`: the estimates of its measures (scoring/measures.py).

    Judgements are gone through once and records twice, so that neither need be held. ValueError names a record without all its judgements,
    or a judgement of no record.
    """
    module = benchmarks.module(benchmark)
    cases = tally.cases(records, module.group)
    if module.GROUPS and (strange := [case for case in cases if case.group not in module.GROUPS]):
        groups = ", ".join(module.GROUPS)
        raise ValueError(f"the group {strange[0].group!r} of pair {strange[0].pair_id} is none of {name_of(module)}'s ({groups})")
    judged = judging.judged_of(judgements, module.parse)
    num_repeats = judging.check_complete(judged, cases)
    read_by = judging.reader(judged)
    by_box = judging.trials_of(judged)
    found = measures.critic(judged, by_box, cases, measures.clusters_of(records))
    return {
        "benchmark": name_of(module),
        "items": len(cases),
        "pairs": len(judged),
        "repeats": num_repeats,
        "verdicts_read_by": read_by,
        **_both_scores(module, by_box if read_by == "box" else judging.trials_of(judged, read_by), by_box, cases),
        "critic": estimates_of(found),
        "baselines": {name: _baseline(module, rule, cases) for name, rule in _BASELINES.items()},
        "notes": _notes(module, [case.group for case in cases]),
    }


def score_file(path: Path, benchmark: str) -> Score:
    """The score of a file of judgements with records.jsonl beside it, or of per-item results as others publish them.

    It has the schema of metrics.json. ValueError names the file and line of what is malformed, and the pair of what is missing.
    """
    if results := published(path, benchmarks.module(benchmark)):
        return metrics_of(path.name, score_published(*results))
    records = RecordFile(path.parent / RECORDS, PairRecord)
    return metrics_of(path.name, score(judging.checked(path, records), records, benchmark))


def metrics_of(name: str, critic: Score, policy: Score | None = None, *, model: str = "", questions: int = 0, samples: int = 0) -> Score:
    """The one schema of all numbers, as scoring/run.py documents it; critic is what score() or score_published() returns."""
    return {
        "schema": SCHEMA,
        "name": name,
        "benchmark": critic["benchmark"],
        "model": model,
        "counts": {key: critic.get(key, 0) for key in ("items", "pairs", "repeats")} | {"questions": questions, "samples": samples},
        **{key: critic.get(key) for key in ("official", "strict", "baselines", "verdicts_read_by", "critic")},
        "policy": policy,
        "notes": critic["notes"],
    }


def estimates_of(found: measures.Measures) -> dict[str, Any]:
    """The estimate of each measure as JSON, None where there is nothing to average."""
    estimates = {}
    for name, values_of in found.items():
        values = values_of()
        estimates[name] = values.estimate().to_json() if values else None
    return estimates


def published(path: Path, named: Any = None) -> tuple[Any, tally.Published] | None:
    """The benchmark of a file of per-item results as others publish them, and what they say; None for a file of judgements.

    The benchmark is the named module, if the results can be its own. ValueError if they cannot, or if nobody knows the file's format.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a run folder, judgements.jsonl, or published results")
    rows = reading.rows(path, ())
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{path}: empty; give a run folder, judgements.jsonl, or published results")
    for module in (*([named] if named else ()), *map(benchmarks.module, benchmarks.MODULES)):
        if module.recognises(first.values):
            if named not in (None, module):
                raise ValueError(f"{path}: these are results of {name_of(module)}, not of {name_of(named)}")
            return module, module.published([first, *rows])
    if first.values.keys().isdisjoint(("pair_id", "order", "repeat")):
        raise ValueError(f"{path}: neither judgements (.jsonl) nor published results in a format that is known")
    return None


def score_published(module: Any, results: tally.Published) -> Score:
    """As score(), without what most results do not tell: both orders, and the texts."""
    return {
        "benchmark": name_of(module),
        "items": len(results.items),
        "official": results.score,
        "strict": None,
        "notes": [
            "published results: strict and what goes with it need judgements.jsonl",
            *results.notes,
            *_notes(module, [item.group for item in results.items]),
        ],
    }


def name_of(module: Any) -> str:
    """The name of a benchmark's module."""
    return module.__name__.rpartition(".")[2]


def _both_scores(module: Any, read: Mapping[str, tally.Trials], by_box: Mapping[str, tally.Trials], cases: Sequence[Case]) -> Score:
    """official: of the verdicts as the benchmark's grammar reads them; strict: of those in the box."""
    rows = zip(cases, judging.strict(by_box, cases), strict=True)
    strict = tally.score(Item(case.key, case.group, case.cluster, right) for case, right in rows)
    return {"official": module.official(read, cases), "strict": strict}


def _longer(first: int, second: int) -> str:
    return "tie" if first == second else "1" if first > second else "2"


_BASELINES: dict[str, Callable[[int, int], str]] = {
    "longer wins": _longer,
    "shorter wins": lambda first, second: _longer(second, first),
    "first wins": lambda first, second: "1",
}


def _baseline(module: Any, rule: Callable[[int, int], str], cases: Sequence[Case]) -> Score:
    """The scores of a rule that looks at the lengths of the two responses as shown; equal lengths are a tie."""
    trials: dict[str, tally.Trials] = {}
    for case in cases:
        first, second = case.lengths
        trials[case.pair_id] = [{"12": rule(first, second), "21": tally.to_record("21", rule(second, first))}]
    return _both_scores(module, trials, trials, cases)


def _notes(module: Any, groups: Sequence[str]) -> list[str]:
    first, *newer = module.PAIRS or (len(groups),)
    if len(groups) in newer:
        # GROUPS are those of the first edition.
        return []
    notes = [f"{len(groups):,} items of the benchmark's {first:,}"] if len(groups) != first else []
    counts = {name: (groups.count(name), size) for name, size in module.GROUPS.items() if size is not None}
    wrong = [f"{name} {count:,} of {size:,}" for name, (count, size) in counts.items() if count != size]
    return notes + ([f"groups of other sizes than the benchmark's: {', '.join(wrong)}"] if wrong else [])
