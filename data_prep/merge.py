# SPDX-License-Identifier: Apache-2.0
"""Merges the records of all shards: removes duplicates and contradictions, and groups records that share images.

Only a key of each record is held in memory: where the line of the record is, and the values that the choice and the splits depend on.
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

    preferred: the label as stored ("" for a question). split: the split that the converter set ("" for none). corpus: index in the list of
    corpora. shard, offset: index of the shard, and where its line starts, in bytes. group: number of the set of records that share images.
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
    """The keys of all distinct records, corpus by corpus; names are the names of the corpora.

    Of records with the same content one is kept: the first in the most strictly held-out split. Of records that contradict each other none
    is kept. What is dropped is counted in counts.
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
    """What records (as JSON) may share, so that they must be in one split: the images, and the parts of the group."""
    return [image["sha256"] for image in record["images"]] + record["group"].split("+")


def held_out(split: str) -> int:
    """How strictly a split is held out: 2 for test, 1 for val, 0 for train, -1 for none."""
    return SPLITS.index(split) if split else -1


def drop(counts: Sequence[shards.Counts], keys: Iterable[Key], reason: str) -> None:
    """Count these records as skipped, no longer as kept."""
    for key in keys:
        counts[key.corpus]["kept"] -= 1
        counts[key.corpus]["skipped"][reason] += 1


def rank(seed: int, text: str) -> bytes:
    """A sort key that puts texts in a pseudo-random order, which depends only on the seed."""
    return hashlib.sha256(f"{seed}:{text}".encode()).digest()


def read_records(keys: Sequence[Key], tasks: Sequence[shards.Task]) -> Iterator[tuple[Record, dict[str, int]]]:
    """The record of each key, and the tokens of its prompt by order (empty if not measured)."""
    for shard, members in groupby(keys, key=lambda key: key.shard):
        with tasks[shard].result.open("rb") as stream:
            for key in members:
                stream.seek(key.offset)
                line = json.loads(stream.readline())
                yield record_from_json(line["record"]), line["tokens"]


class _Groups:
    """A union-find structure over what records share (images, parts of groups): all that one record has is in one set."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._parents = array("L")

    def join(self, things: Iterable[str]) -> int:
        """Join the sets of these things, and return a number of the joined set, for find()."""
        first = None
        for thing in things:
            number = self._numbers.setdefault(hashlib.sha256(thing.encode()).digest()[:12], len(self._parents))
            if number == len(self._parents):
                self._parents.append(number)
            root = self.find(number)
            first = root if first is None else first
            self._parents[root] = first
        assert first is not None, "a record has a group"
        return first

    def find(self, number: int) -> int:
        """The number that represents the set."""
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number
