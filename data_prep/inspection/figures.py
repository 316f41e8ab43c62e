# SPDX-License-Identifier: Apache-2.0
"""The figures of a data folder: rows, labels, how often simple rules are right, lengths of responses."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from critic_r1_verl.data_folder import rows_file
from critic_r1_verl.records import SPLITS, PairRecord
from critic_r1_verl.rows import Kind, kind_of, stream_rows
from critic_r1_verl.scoring.estimates import estimate, paired_difference
from data_prep.stored_records import StoredRecords

Figures = dict[str, Any]

ALL = "all sources"


@dataclass(frozen=True, slots=True)
class Fact:
    """The facts of one row. first, second: lengths of the responses as shown, in characters; 0 for a question."""

    split: str
    number: int
    source: str
    kind: Kind
    record_id: str
    order: str
    label: str
    first: int = 0
    second: int = 0

    @property
    def preferred_and_other(self) -> tuple[int, int]:
        return (self.first, self.second) if self.label == "1" else (self.second, self.first)


def read_facts(folder: Path, records: StoredRecords) -> Iterator[Fact]:
    """The facts of all rows, split by split. ValueError names a row whose record is missing."""
    for split in SPLITS:
        for number, row in enumerate(stream_rows(folder / rows_file(split))):
            extra = row["extra_info"]
            record = records.find(extra["pair_id"])
            if record is None:
                raise ValueError(
                    f"{folder / rows_file(split)}: row {number}: its record {extra['pair_id']} is not in {records.path.name}; "
                    f"`critic-r1 data validate {folder}` lists all such rows"
                )
            lengths = {}
            if isinstance(record, PairRecord):
                shown = record.shown(extra["order"])
                lengths = {"first": len(shown.response_1), "second": len(shown.response_2)}
            yield Fact(
                split=split,
                number=number,
                source=row["data_source"],
                kind=kind_of(record),
                record_id=extra["pair_id"],
                order=extra["order"],
                label=row["reward_model"]["ground_truth"],
                **lengths,
            )


def figures(facts: Sequence[Fact], manifest: dict[str, Any]) -> Figures:
    """All numbers that are shown: {sources: {name: ...}, corpora, prompt_tokens, ...}.

    For each source, and for ALL of them if there are several: rows {split: n}; pairs, questions: numbers of records; labels {"1", "2",
    "tie": rows} as shown; rules {name: estimate}: how often the rule is right, without ties, one half for equally long responses; lengths
    {preferred, other, difference: estimate} in characters. Both orders of a pair are one draw. An estimate is None without values.
    """
    by_source: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_source[fact.source].append(fact)
    sources = {name: _source_figures(by_source[name]) for name in sorted(by_source)}
    if len(sources) > 1:
        sources[ALL] = _source_figures(facts)
    return {
        "sources": sources,
        "corpora": manifest["corpora"],
        "prompt_tokens": manifest.get("lengths"),
        "ties": manifest.get("ties"),
        "decontamination": manifest.get("decontamination"),
        "templates": {kind: {"name": template["name"], "sha": template["sha"]} for kind, template in manifest["templates"].items()},
        "seed": manifest.get("seed"),
        "version": manifest.get("version"),
    }


def _source_figures(facts: Sequence[Fact]) -> Figures:
    pairs = [fact for fact in facts if fact.kind == "pair"]
    decided = [fact for fact in pairs if fact.label != "tie"]
    lengths = [fact.preferred_and_other for fact in decided]
    labels = Counter(fact.label for fact in pairs)
    rows = Counter(fact.split for fact in facts)
    ids, preferred, other = [fact.record_id for fact in decided], [one for one, _ in lengths], [two for _, two in lengths]
    return {
        "rows": {split: rows[split] for split in SPLITS},
        "pairs": len({fact.record_id for fact in pairs}),
        "questions": len({fact.record_id for fact in facts if fact.kind == "question"}),
        "labels": {label: labels[label] for label in ("1", "2", "tie")},
        "rules": {
            "longer": _mean([0.5 if one == two else float(one > two) for one, two in lengths], ids),
            "first_shown": _mean([float(fact.label == "1") for fact in decided], ids),
            "first_in_corpus": _mean([float(fact.order[int(fact.label) - 1] == "1") for fact in decided], ids),
        },
        "lengths": {
            "preferred": _mean(preferred, ids, bounded=False),
            "other": _mean(other, ids, bounded=False),
            "difference": paired_difference(other, preferred, ids, bounded=False).to_json() if ids else None,
        },
    }


def _mean(values: Sequence[float], clusters: Sequence[str], *, bounded: bool = True) -> Figures | None:
    """The estimate as JSON; None if there are no values."""
    return estimate(values, clusters, bounded=bounded).to_json() if values else None
