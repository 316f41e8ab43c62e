# SPDX-License-Identifier: Apache-2.0
"""The records of all shards as keys in memory: duplicates and contradictions are removed, records that share images are grouped.

No record is held. A key says where the line of its record is, and what the choice of records and the splits depend on.
"""

import hashlib
import json
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from critic_r1_verl.records import SPLITS, Record, record_from_json
from data_prep import shards


@dataclass(slots=True, eq=False)
class Key:
    """A record in the merge.

    preferred is its label as stored ("" for a question), split the one that its converter set ("" for none), shard and offset say where its
    line is, corpus is a position in the list of corpora, and group is the number of the set of records with which it shares images.
    """

    record_id: str
    kind: str
    preferred: str
    split: str
    corpus: int
    shard: int
    offset: int
    group: int


def read_keys(tasks: Sequence[shards.Task], names: Sequence[str], counts: Sequence[shards.Counts]) -> list[Key]:
    """The keys of all distinct records, corpus by corpus; names are those of the corpora.

    Of records with the same content one stays: the one in the split that is held out the most, and of these the first. Of records that
    contradict each other none stays. What goes is counted in counts.
    """
    first: dict[str, tuple[Key, str]] = {}
    duplicates: list[Key] = []
    contradicting: list[Key] = []
    groups = _Groups()
    for shard, task in enumerate(tasks):
        corpus = names.index(task.corpus)
        for offset, line in shards.read_lines(task.result):
            record, label = line["record"], sys.intern(line["label"])
            key = Key(
                record_id=line["record_id"],
                kind=sys.intern(line["kind"]),
                preferred=sys.intern(record.get("preferred", "")),
                split=sys.intern(record["split"]),
                corpus=corpus,
                shard=shard,
                offset=offset,
                group=groups.join(shared_things(record)),
            )
            known, known_label = first.setdefault(key.record_id, (key, label))
            if known is key:
                continue
            if known_label != label:
                contradicting.append(key)
                continue
            if held_out(key.split) > held_out(known.split):
                first[key.record_id] = key, label
                key = known
            duplicates.append(key)
    contradicted = {key.record_id for key in contradicting}
    contradicting += [first.pop(record_id)[0] for record_id in sorted(contradicted)]
    drop(counts, duplicates, "duplicate")
    drop(counts, contradicting, "contradiction")
    keys = [key for key, _ in first.values()]
    for key in keys:
        key.group = groups.find(key.group)
    return keys


def shared_things(record: dict) -> list[str]:
    """What a record, as JSON, may share with others, so that they must be in one split: its images, and the parts of its group."""
    return [image["sha256"] for image in record["images"]] + record["group"].split("+")


def held_out(split: str) -> int:
    """How strictly a split is held out: test before val before train before none."""
    return SPLITS.index(split) if split else -1


def drop(counts: Sequence[shards.Counts], keys: Iterable[Key], reason: str) -> None:
    """Count records as skipped that were counted as kept."""
    for key in keys:
        counts[key.corpus]["kept"] -= 1
        counts[key.corpus]["skipped"][reason] += 1


def rank(seed: int, text: str) -> bytes:
    """Where a text stands in an order that depends on the seed alone."""
    return hashlib.sha256(f"{seed}:{text}".encode()).digest()


def read_records(keys: Sequence[Key], tasks: Sequence[shards.Task]) -> Iterator[tuple[Record, dict[str, int]]]:
    """The record of each key, and the tokens of its prompt by order, empty if they were not measured."""
    for shard, members in groupby(keys, key=lambda key: key.shard):
        with tasks[shard].result.open("rb") as stream:
            for key in members:
                stream.seek(key.offset)
                line = json.loads(stream.readline())
                yield record_from_json(line["record"]), line["tokens"]


class _Groups:
    """Sets of things that are shared (images, groups): the things of one record are in one set. A union-find structure."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._parents = array("L")

    def join(self, things: Iterable[str]) -> int:
        """Join the sets of these things, and return the number of one of them, for find()."""
        first = None
        for thing in things:
            number = self._numbers.setdefault(hashlib.sha256(thing.encode()).digest()[:12], len(self._parents))
            if number == len(self._parents):
                self._parents.append(number)
            root = self.find(number)
            first = root if first is None else first
            self._parents[root] = first
        assert first is not None, "a record has an image"
        return first

    def find(self, number: int) -> int:
        """The number that stands for the set."""
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number
