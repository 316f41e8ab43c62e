# SPDX-License-Identifier: Apache-2.0
"""Judgements and records -> what a benchmark's official code says, and what it hides; two such files -> their paired difference.

Two scores stand side by side, shares in [0, 1]. official: the benchmark's own formula (benchmarks/). strict: an item counts only if the
verdicts of both orders are for the right response; unparsed is wrong; of K repeats the verdict of an order is what more than half say.
Everything else is an estimate of metrics.py, clustered by what items share (an image, a group, the pair itself), or None where nothing is
left to average.
"""

import math
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from critic_r1_verl import benchmarks
from critic_r1_verl.benchmarks import reading, tally
from critic_r1_verl.benchmarks.tally import Case, Item
from critic_r1_verl.judge import ORDERS
from critic_r1_verl.records import PairRecord, RecordFile
from critic_r1_verl.scoring import estimates

Score = dict[str, Any]
Lines = Iterable[Mapping[str, Any]]

RECORDS = "records.jsonl"
STATUSES = ("parsed", "missing", "unclosed", "ambiguous")
_KEYS = ("pair_id", "order", "repeat")


class Judged(NamedTuple):
    """What scores need of a judgement; choice by the box and own by the benchmark's grammar, both in the shown frame."""

    order: str
    repeat: int
    choice: str | None
    own: str | None
    status: str
    tokens: int | None


@dataclass(frozen=True, slots=True)
class Hits:
    """What compare compares: whether each item is right (a share, where chance decides), by its name, and the cluster of each."""

    what: str
    right: dict[str, float]
    clusters: dict[str, Hashable]


def score_file(path: Path, benchmark: str) -> Score:
    """The score of a file of judgements with records.jsonl beside it, or of per-item results as others publish them.

    ValueError names file and line for what is malformed, and the pair for what is missing.
    """
    if published := _published(path, benchmarks.module(benchmark)):
        return _score_published(*published)
    judgements, records = read(path)
    try:
        return score(judgements, records, benchmark)
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from error


def read(path: Path) -> tuple[Iterator[dict[str, Any]], RecordFile[PairRecord]]:
    """The judgements of a file and the records beside it, each line checked by itself and against its record when it is reached."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give judgements.jsonl, or published results")
    records = RecordFile(path.parent / RECORDS, PairRecord)
    preferred: dict[str, set[str]] = {}
    for record in records:
        preferred.setdefault(record.pair_id, set()).add(record.preferred)
    return _judgements(path, preferred), records


def score(judgements: Lines, records: Iterable[PairRecord], benchmark: str) -> Score:
    """Everything about one model on one benchmark; judgements are gone through once and records twice, so that neither need be held.

    ValueError names a record without all its judgements, or a judgement of no record.
    """
    module = benchmarks.module(benchmark)
    cases = tally.cases(records, module.group)
    if module.GROUPS and (strange := [case for case in cases if case.group not in module.GROUPS]):
        groups = ", ".join(module.GROUPS)
        raise ValueError(f"the group {strange[0].group!r} of pair {strange[0].pair_id} is none of {_name(module)}'s ({groups})")
    judged = judged_of(judgements, module.parse)
    num_repeats = _check_complete(judged, cases)
    read_by = reader(judged)
    by_box = trials_of(judged)
    return {
        "benchmark": _name(module),
        "items": len(cases),
        "pairs": len(judged),
        "repeats": num_repeats,
        "verdicts_read_by": read_by,
        **_both_scores(module, by_box if read_by == "box" else trials_of(judged, read_by), by_box, cases),
        "estimates": _estimates(judged, by_box, cases, _clusters(records)),
        "baselines": {name: _baseline(module, rule, cases) for name, rule in _BASELINES.items()},
        "notes": _notes(module, [case.group for case in cases]),
    }


def compare_files(path_a: Path, path_b: Path) -> Score:
    """compare() of two files that score_file can read."""
    return compare(_hits(path_a), _hits(path_b))


def compare(a: Hits, b: Hits) -> Score:
    """The paired difference b - a with its interval, and the exact McNemar test of the items that only one has right.

    The interval is clustered; the test takes items as independent. ValueError names an item that only one of the two has.
    """
    if a.what != b.what:
        raise ValueError(f"{a.what} cannot be compared with {b.what}")
    if unmatched := a.right.keys() ^ b.right.keys():
        item = min(unmatched)
        raise ValueError(f"item {item} is only in the {'first' if item in a.right else 'second'} file: these judge different items")
    before, after = list(a.right.values()), [b.right[key] for key in a.right]
    clusters = [a.clusters[key] for key in a.right]
    only_a = sum(x == 1 and y == 0 for x, y in zip(before, after, strict=True))
    only_b = sum(x == 0 and y == 1 for x, y in zip(before, after, strict=True))
    return {
        "what": a.what,
        "items": len(before),
        "a": estimates.estimate(before, clusters),
        "b": estimates.estimate(after, clusters),
        "difference": estimates.paired_difference(before, after, clusters),
        "mcnemar": {"only_a": only_a, "only_b": only_b, "p": mcnemar(only_a, only_b)},
    }


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value that both are as likely to be the only one who is right.

    >>> mcnemar(1, 5)
    0.21875
    """
    n, fewer = only_a + only_b, min(only_a, only_b)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n)


def show(result: Score) -> None:
    """Print a score as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    read_by = {"own": "the benchmark's own grammar", "box": "the box"}.get(result.get("verdicts_read_by", ""))
    told = [f"{result['items']} items"]
    if read_by:
        told += [f"{result['pairs']} pairs in both orders", f"{result['repeats']} repeat(s)", f"official verdicts read by {read_by}"]
    console.print(f"{result['benchmark']}: {', '.join(told)}")
    baselines = result.get("baselines", {})
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("percent", overflow="fold")
    for name in ("official", "strict", *(name.replace(" ", "\n") for name in baselines)):
        table.add_column(name, justify="right")
    for label, value in figures(result["official"]):
        strict = dict(figures(result["strict"])).get(label)
        of_baselines = [[dict(figures(each[which])).get(label) for which in ("official", "strict")] for each in baselines.values()]
        table.add_row(label, percent(value), percent(strict), *("/".join(percent(each, 1) for each in pair) for pair in of_baselines))
    console.print(table)
    if baselines:
        console.print("Of the rules that look at length or place alone: official/strict.\n")
    if "estimates" in result:
        _show_estimates(console, result["estimates"])
    for note in result["notes"]:
        console.print(f"Note: {note}.")


def show_comparison(result: Score) -> None:
    """Print a comparison as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in (f"{result['what']}, percent", "value", "95 % interval"):
        table.add_column(name, justify="left" if "," in name else "right")
    for name in ("a", "b", "difference"):
        table.add_row("b - a" if name == "difference" else name, *_cells(result[name]))
    console = Console(highlight=False)
    console.print(table)
    test = result["mcnemar"]
    told = f"right in a alone {test['only_a']}, in b alone {test['only_b']}, exact McNemar p = {test['p']:.4g}"
    console.print(f"{result['items']} items; {told}")


# Reading


def _judgements(path: Path, preferred: Mapping[str, set[str]]) -> Iterator[dict[str, Any]]:
    seen: dict[tuple[Any, ...], str] = {}
    for row in reading.json_lines(path):
        _check(row, preferred)
        key = tuple(row.values[name] for name in _KEYS)
        if key in seen:
            raise ValueError(f"{row.where}: judges {_show(key)} again, after {seen[key]}")
        seen[key] = row.where
        yield row.values
    if not seen:
        raise ValueError(f"{path}: no judgements")


def _check(row: reading.Row, preferred: Mapping[str, set[str]]) -> None:
    pair_id, order = row.value("pair_id"), row.one_of("order", *ORDERS)
    if row.value("repeat", int) < 0:
        raise ValueError(f"{row.where}: key 'repeat': {row.values['repeat']} is negative")
    choice, status = row.one_of("choice", "1", "2", "tie", None), row.one_of("status", *STATUSES)
    if (choice is None) != (status != "parsed"):
        raise ValueError(f"{row.where}: the choice {choice!r} does not go with the status {status!r}")
    row.value("text")
    # An endpoint need not tell what it used.
    if row.values.get("completion_tokens") is not None and row.value("completion_tokens", int) < 0:
        raise ValueError(f"{row.where}: key 'completion_tokens': {row.values['completion_tokens']} is negative")
    if pair_id not in preferred:
        raise ValueError(f"{row.where}: judges the pair {pair_id}, which is not in {RECORDS} beside it")
    shown = row.one_of("preferred", "1", "2", "tie")
    if (tally.OTHER.get(shown, shown) if order == "21" else shown) not in preferred[pair_id]:
        raise ValueError(f"{row.where}: the preferred response of {pair_id} is another one in {RECORDS}; the files are of different runs")


def judged_of(judgements: Lines, own: tally.Parse | None) -> dict[str, list[Judged]]:
    """The judgements of each pair, without their texts, by repeat and order."""
    judged: dict[str, list[Judged]] = {}
    for line in judgements:
        by_own = own(tally.answer_part(line["text"])) if own else None
        order, status = sys.intern(line["order"]), sys.intern(line["status"])
        known = Judged(order, line["repeat"], line["choice"], by_own, status, line.get("completion_tokens"))
        judged.setdefault(line["pair_id"], []).append(known)
    for lines in judged.values():
        lines.sort(key=lambda line: (line.repeat, line.order))
    return judged


def _check_complete(judged: Mapping[str, list[Judged]], cases: Sequence[Case]) -> int:
    """The number of repeats, which all pairs have in both orders."""
    if not cases or not judged:
        raise ValueError("no records or no judgements: there is nothing to score")
    pairs, repeats = {case.pair_id for case in cases}, {line.repeat for lines in judged.values() for line in lines}
    expected = [(repeat, order) for repeat in sorted(repeats) for order in ORDERS]
    if unknown := judged.keys() - pairs:
        line = judged[min(unknown)][0]
        raise ValueError(f"the judgement {_show((min(unknown), line.order, line.repeat))} is of no record")
    missing = []
    for pair_id in sorted(pairs):
        found = [(line.repeat, line.order) for line in judged.get(pair_id, ())]
        if found != expected:
            if len(set(found)) < len(found):
                raise ValueError("a judgement stands there twice")
            missing += [(pair_id, order, repeat) for repeat, order in expected if (repeat, order) not in found]
    if missing:
        raise ValueError(f"{len(missing)} judgements are missing, the first {_show(missing[0])}; run the same command again to go on")
    return len(repeats)


def _show(key: tuple[Any, ...]) -> str:
    return f"pair {key[0]}, order {key[1]}, repeat {key[2]}"


def _published(path: Path, named: Any = None) -> tuple[Any, tally.Published] | None:
    """The benchmark of published results, which is the named one if they can be its own, and what they say; None for judgements."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give judgements.jsonl, or published results")
    rows = reading.rows(path, ())
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{path}: empty; give judgements.jsonl, or published results")
    for module in (*([named] if named else ()), *map(benchmarks.module, benchmarks.MODULES)):
        if module.recognises(first.values):
            if named not in (None, module):
                raise ValueError(f"{path}: these are results of {_name(module)}, not of {_name(named)}")
            return module, module.published([first, *rows])
    if first.values.keys().isdisjoint(_KEYS):
        raise ValueError(f"{path}: neither judgements (.jsonl) nor published results in a format that is known")
    return None


def _hits(path: Path) -> Hits:
    if published := _published(path):
        module, results = published
        shares = {item.key: item.right / (item.counted or 1) for item in results.items}
        return Hits(f"{_name(module)}, published", shares, {item.key: item.cluster for item in results.items})
    judgements, records = read(path)
    try:
        cases, judged = tally.cases(records, lambda record: ""), judged_of(judgements, None)
        _check_complete(judged, cases)
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from error
    names = [case.key for case in cases]
    right = _strict(trials_of(judged), cases)
    return Hits("strict", dict(zip(names, right, strict=True)), dict(zip(names, _clusters(records), strict=True)))


# Scoring


def _score_published(module: Any, results: tally.Published) -> Score:
    """As score(), with what most results do not tell left out: both orders, and the texts."""
    return {
        "benchmark": _name(module),
        "items": len(results.items),
        "official": results.score,
        "strict": {"overall": None, "macro": None, "groups": {}},
        "notes": [
            "published results: strict and what goes with it need judgements.jsonl",
            *results.notes,
            *_notes(module, [item.group for item in results.items]),
        ],
    }


def _both_scores(module: Any, read: Mapping[str, tally.Trials], by_box: Mapping[str, tally.Trials], cases: Sequence[Case]) -> Score:
    """official: of the verdicts as its grammar reads them; strict: of those in the box."""
    rows = zip(cases, _strict(by_box, cases), strict=True)
    strict = tally.score(Item(case.key, case.group, case.cluster, right) for case, right in rows)
    return {"official": module.official(read, cases), "strict": strict}


def reader(judged: Mapping[str, list[Judged]]) -> str:
    """ "own" if a benchmark's own grammar reads more of the texts than the box does, that is, if its prompt was used; else "box"."""
    more = sum((line.own is not None) - (line.choice is not None) for lines in judged.values() for line in lines)
    return "own" if more > 0 else "box"


def trials_of(judged: Mapping[str, list[Judged]], read_by: str = "box") -> dict[str, tally.Trials]:
    """pair_id -> its trials, read in one of the two ways."""
    trials: dict[str, tally.Trials] = {}
    for pair_id, lines in judged.items():
        repeats: dict[int, dict[str, str | None]] = {}
        for line in lines:
            shown = line.own if read_by == "own" else line.choice
            repeats.setdefault(line.repeat, {})[line.order] = _unswapped(shown, line.order)
        trials[pair_id] = list(repeats.values())
    return trials


def _unswapped(choice: str | None, order: str) -> str | None:
    """A choice in the shown frame as one in the frame of the record, or the other way round."""
    return tally.OTHER.get(choice, choice) if order == "21" and choice is not None else choice


def _strict(trials: Mapping[str, tally.Trials], cases: Sequence[Case]) -> list[float]:
    """For each case 1.0 if the verdicts of both orders are right."""
    return [float(_voted(trials[case.pair_id]) == (case.preferred, case.preferred)) for case in cases]


def _voted(pair: tally.Trials) -> tuple[str | None, str | None]:
    """For each order, in the frame of the record, the verdict of more than half of the repeats."""
    verdicts = []
    for order in ORDERS:
        choices = [trial[order] for trial in pair]
        verdicts.append(next((choice for choice in ("1", "2", "tie") if 2 * choices.count(choice) > len(pair)), None))
    return verdicts[0], verdicts[1]


def _estimates(
    judged: Mapping[str, list[Judged]], trials: Mapping[str, tally.Trials], cases: Sequence[Case], clusters: Sequence[int]
) -> Score:
    """Over lines where a line is meant (accuracy, first, unparsed, ties, tokens), over items where both orders are."""
    strict = list(zip(_strict(trials, cases), cases, clusters, strict=True))
    votes = [(_voted(trials[case.pair_id]), cluster) for case, cluster in zip(cases, clusters, strict=True)]
    groups = sorted({case.group for case in cases})

    def of_items(wanted: Callable[[Case], bool] = lambda case: True) -> estimates.Estimate | None:
        return _estimate([(right, cluster) for right, case, cluster in strict if wanted(case)])

    def of_lines(
        value: Callable[[Judged, Case], float | None], wanted: Callable[[Case], bool] = lambda case: True
    ) -> list[tuple[float, Hashable]]:
        """The values of the lines that have one, with their clusters."""
        pairs = [(case, cluster) for case, cluster in zip(cases, clusters, strict=True) if wanted(case)]
        each = ((value(line, case), cluster) for case, cluster in pairs for line in judged[case.pair_id])
        return [(known, cluster) for known, cluster in each if known is not None]

    def right(line: Judged, case: Case) -> float:
        return float(_unswapped(line.choice, line.order) == case.preferred)

    def longer(case: Case) -> int:
        """How many characters the chosen response is longer; 0 for a tie."""
        return (case.lengths[0] - case.lengths[1]) * {"1": 1, "2": -1, "tie": 0}[case.preferred]

    def in_group(name: str) -> Callable[[Case], bool]:
        return lambda case: case.group == name

    def in_status(name: str) -> Callable[[Judged, Case], float]:
        return lambda line, case: float(line.status == name)

    return {
        "strict": of_items(),
        "strict_by_group": {name: of_items(in_group(name)) for name in groups},
        "accuracy": _estimate(of_lines(right)),
        "accuracy_by_group": {name: _estimate(of_lines(right, in_group(name))) for name in groups},
        "accuracy_chosen_longer": _estimate(of_lines(right, lambda case: longer(case) > 0)),
        "accuracy_chosen_shorter": _estimate(of_lines(right, lambda case: longer(case) < 0)),
        "position_consistency": _estimate([(float(one is not None and one == two), cluster) for (one, two), cluster in votes]),
        "first_share": _estimate(of_lines(lambda line, case: float(line.choice == "1") if line.choice in ("1", "2") else None)),
        "ties": _estimate(of_lines(lambda line, case: float(line.choice == "tie"))),
        "unparsed": _estimate(of_lines(lambda line, case: float(line.choice is None))),
        "unparsed_by_status": {status: _estimate(of_lines(in_status(status))) for status in STATUSES[1:]},
        "completion_tokens": _tokens(of_lines(lambda line, case: line.tokens)),
    }


def _estimate(values: Sequence[tuple[float, Hashable]]) -> estimates.Estimate | None:
    return estimates.estimate([value for value, _ in values], [cluster for _, cluster in values]) if values else None


def _tokens(values: Sequence[tuple[float, Hashable]]) -> estimates.Estimate | None:
    """estimates.estimate is for shares: the mean of the share of the largest, scaled back."""
    most = max((value for value, _ in values), default=0)
    found = _estimate([(value / most if most else 0.0, cluster) for value, cluster in values])
    return found and {"value": found["value"] * most, "n": found["n"], "ci95": [bound * most for bound in found["ci95"]]}


def _clusters(records: Iterable[PairRecord]) -> list[int]:
    """A number for each record; the same for records that share an image or a group, be it through others."""
    parent: list[int] = []

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = number = parent[parent[number]]
        return number

    first: dict[tuple[str, str], int] = {}
    for number, record in enumerate(records):
        parent.append(number)
        for key in {("group", record.group), *(("image", image.sha256) for image in record.images)}:
            parent[root(number)] = root(first.setdefault(key, number))
    return [root(number) for number in range(len(parent))]


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
        trials[case.pair_id] = [{"12": rule(first, second), "21": _unswapped(rule(second, first), "21")}]
    return _both_scores(module, trials, trials, cases)


def _name(module: Any) -> str:
    return module.__name__.rpartition(".")[2]


def _notes(module: Any, groups: Sequence[str]) -> list[str]:
    first, *newer = module.PAIRS or (len(groups),)
    if len(groups) in newer:
        # GROUPS are those of the first edition.
        return []
    notes = [f"{len(groups):,} items of the benchmark's {first:,}"] if len(groups) != first else []
    counts = {name: (groups.count(name), size) for name, size in module.GROUPS.items() if size is not None}
    wrong = [f"{name} {count:,} of {size:,}" for name, (count, size) in counts.items() if count != size]
    return notes + ([f"groups of other sizes than the benchmark's: {', '.join(wrong)}"] if wrong else [])


# Showing


def percent(value: float | None, digits: int = 2) -> str:
    """A share as people read it; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def figures(score: Score, prefix: str = "") -> list[tuple[str, float | None]]:
    """All figures of a score by the label they are shown under."""
    lines: list[tuple[str, float | None]] = []
    for name, value in score.items():
        if name == "groups":
            lines += [(f"{prefix}  {group}", of_group) for group, of_group in value.items()]
        elif isinstance(value, dict):
            lines += [line for line in figures(value, f"{prefix}{name.replace('_', ' ')} ".removeprefix("splits ")) if "  " not in line[0]]
        else:
            lines.append((f"{prefix}{name.replace('_', ' ')}", value))
    return lines


def _show_estimates(console: Any, estimates: Score) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("percent", "value", "95 % interval", "n"):
        table.add_column(name, justify="left" if name == "percent" else "right")
    for name, found in estimates.items():
        if name == "completion_tokens" and found:
            low, high = found["ci95"]
            table.add_row("mean tokens (not percent)", f"{found['value']:.1f}", f"[{low:.1f}, {high:.1f}]", str(found["n"]))
            continue
        nested = found is not None and "value" not in found
        for label, each in found.items() if nested else [(None, found)]:
            title = name.replace("_", " ") if label is None else f"  {name.split('_')[0]}: {label}"
            table.add_row(title, *_cells(each), str(each["n"]) if each else "0")
    console.print(table)


def _cells(found: estimates.Estimate | None) -> tuple[str, str]:
    if found is None:
        return "-", ""
    low, high = found["ci95"]
    return f"{100 * found['value']:.2f}", f"[{100 * low:.2f}, {100 * high:.2f}]"
