# SPDX-License-Identifier: Apache-2.0
"""Computes the official score of a benchmark and a strict score from judgements and records, as shares in [0, 1].

The official score is the benchmark's own formula (benchmarks/). In the strict score, an item is right only if the majority verdicts of both
orders are right: an unparsed verdict is wrong, and the majority is more than half of the K repeats.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from critic_r1_verl import benchmarks
from critic_r1_verl.benchmarks import reading, tally
from critic_r1_verl.benchmarks.tally import Case
from critic_r1_verl.data_folder import RECORDS
from critic_r1_verl.lines import Judgement
from critic_r1_verl.records import PairRecord, RecordFile
from critic_r1_verl.scoring import judged as judging
from critic_r1_verl.scoring import measures

Score = dict[str, Any]

SCHEMA = 2


def score(judgements: Iterable[Judgement], records: Iterable[PairRecord], benchmark: str) -> Score:
    """All numbers of one critic on one benchmark; "critic" has the estimates of its measures (scoring/measures.py).

    Judgements are read once and records twice, so both may be read from files. ValueError names a record without all its judgements, a
    judgement of no record, and a record whose group the benchmark does not have.
    """
    module = benchmarks.module(benchmark)
    cases = tally.cases(records, benchmarks.group)
    if module.GROUPS and (unknown := [case for case in cases if case.group not in module.GROUPS]):
        groups = ", ".join(module.GROUPS)
        raise ValueError(f"the group {unknown[0].group!r} of pair {unknown[0].pair_id} is none of {name_of(module)}'s ({groups})")
    judged = judging.judged_of(judgements, module.parse)
    num_repeats = judging.check_complete(judged, cases)
    read_by = judging.reader(judged)
    by_box = judging.trials_of(judged)
    by_reader = by_box if read_by == "box" else judging.trials_of(judged, read_by)
    found = measures.critic(judged, by_box, cases, measures.clusters_of(records))
    return {
        "benchmark": name_of(module),
        "items": len(cases),
        "pairs": len(judged),
        "repeats": num_repeats,
        "verdicts_read_by": read_by,
        **_both_scores(module, by_reader, by_box, cases),
        "critic": estimates_of(found),
        "baselines": {name: _baseline(module, rule, cases) for name, rule in _BASELINES.items()},
        "notes": _notes(module, [case.group for case in cases]),
    }


def score_file(path: Path, benchmark: str) -> Score:
    """The metrics (the schema of scoring/run.py) of a file of judgements beside its records.jsonl, or of published per-item results.

    ValueError names the file and the line of malformed input, and the pair whose judgements are missing.
    """
    if results := published(path, benchmarks.results_module(benchmark)):
        return metrics_of(path.name, _score_published(*results))
    records = RecordFile(path.parent / RECORDS, PairRecord)
    return metrics_of(path.name, score(judging.checked(path, records), records, benchmark))


def metrics_of(name: str, critic: Score, policy: Score | None = None, *, model: str = "", questions: int = 0, samples: int = 0) -> Score:
    """The metrics in the schema that scoring/run.py documents. critic: the result of score() or _score_published()."""
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
    """The estimate of each measure as JSON, None if it has no values."""
    return {name: values.estimate().to_json() if (values := values_of()) else None for name, values_of in found.items()}


def published(path: Path, named: Any = None) -> tuple[Any, tally.Published] | None:
    """The module of the benchmark of a file of published per-item results, and these results; None for a file of judgements.

    named: the module that the results must belong to. ValueError if they belong to another, or if no benchmark recognises the format.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a run folder, judgements.jsonl, or published results")
    rows = reading.rows(path, ())
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{path}: empty; give a run folder, judgements.jsonl, or published results")
    # The named benchmark comes first, because several may recognise the same format.
    for module in filter(None, (named, *map(benchmarks.results_module, (*benchmarks.MODULES, *benchmarks.LEADERBOARDS)))):
        if module.recognises(first.values):
            if named not in (None, module):
                raise ValueError(f"{path}: these are results of {name_of(module)}, not of {name_of(named)}")
            return module, module.published([first, *rows])
    if first.values.keys().isdisjoint(("pair_id", "order", "repeat")):
        raise ValueError(f"{path}: neither judgements (.jsonl) nor published results in a known format")
    return None


def _score_published(module: Any, results: tally.Published) -> Score:
    """Like score(), without the numbers that need both orders or the texts, which most published results lack."""
    return {
        "benchmark": name_of(module),
        "items": len(results.items),
        "official": results.score,
        "strict": None,
        "notes": [
            "published results: the strict score and the measures need judgements.jsonl",
            *results.notes,
            *tally.repeated_note(results.items),
            *_notes(module, [item.group for item in results.items]),
        ],
    }


def name_of(module: Any) -> str:
    """The name of a benchmark's module."""
    return module.__name__.rpartition(".")[2]


def _both_scores(module: Any, by_reader: Mapping[str, tally.Trials], by_box: Mapping[str, tally.Trials], cases: Sequence[Case]) -> Score:
    """The official score of the verdicts as the benchmark reads them, and the strict score of those in the box."""
    strict = tally.score(case.item(right) for case, right in zip(cases, judging.strict(by_box, cases), strict=True))
    return {"official": module.official(by_reader, cases), "strict": strict}


def _longer(first: int, second: int) -> str:
    return "tie" if first == second else "1" if first > second else "2"


_BASELINES: dict[str, Callable[[int, int], str]] = {
    "longer wins": _longer,
    "shorter wins": lambda first, second: _longer(second, first),
    "first wins": lambda first, second: "1",
}


def _baseline(module: Any, rule: Callable[[int, int], str], cases: Sequence[Case]) -> Score:
    """The scores of a rule that decides by the lengths of the two responses, in the order shown."""
    trials: dict[str, tally.Trials] = {}
    for case in cases:
        first, second = case.lengths
        trials[case.pair_id] = [{"12": rule(first, second), "21": tally.to_record("21", rule(second, first))}]
    return _both_scores(module, trials, trials, cases)


def _notes(module: Any, groups: Sequence[str]) -> list[str]:
    """Notes on numbers of items that differ from those of the benchmark; groups: the group of each item."""
    first, *newer = module.PAIRS or (len(groups),)
    if len(groups) in newer:
        # GROUPS are those of the first edition.
        return []
    notes = [f"{len(groups):,} items of the benchmark's {first:,}"] if len(groups) != first else []
    counts = {name: (groups.count(name), size) for name, size in module.GROUPS.items() if size is not None}
    wrong = [f"{name} {count:,} of {size:,}" for name, (count, size) in counts.items() if count != size]
    return notes + ([f"groups of other sizes than the benchmark's: {', '.join(wrong)}"] if wrong else [])
