# SPDX-License-Identifier: Apache-2.0
"""The splits train, val and test: records that share an image or a part of their group are always in the same split.

A set is a set of records that are connected in this way. A converter may set the split of a record. If a record names val or test, this
split holds exactly the records that name it. Otherwise it is drawn by hash, in whole sets, from the records that name no split. All other
records are for training. --val 0 holds nothing out for validation, nor for the test where the records cannot be divided. If records of
one set name different splits, the most strictly held-out one wins (test before val before train), and the other records of the set are
skipped with a count.
"""

from collections import Counter
from collections.abc import Sequence

from critic_r1_verl.records import SPLITS
from data_prep.merge import Key, drop, held_out, rank
from data_prep.options import Options
from data_prep.shards import Counts

DEFAULTS = {"test": 512, "val": 64}


def split(keys: Sequence[Key], options: Options, counts: Sequence[Counts]) -> dict[str, list[Key]]:
    """The keys of each split, in the given order. ValueError if a split would be empty or --val or --test is impossible."""
    keys = _resolve_named_splits(keys, counts)
    named = {key.split for key in keys} - {""}
    free = [key for key in keys if not key.split]
    ranked = _ranked_sets(free, options.seed)
    sizes = _sizes(len(keys), len(free), len(ranked), named, options)
    taken: dict[int, str] = {}
    for name, size in sizes.items():
        for group, members in ranked:
            if group not in taken and members <= size:
                taken[group] = name
                size -= members
    splits: dict[str, list[Key]] = {name: [] for name in SPLITS}
    for key in keys:
        splits[key.split or taken.get(key.group, "train")].append(key)
    may_be_empty = {name for name, size in sizes.items() if not size} | ({"test"} if _without_held_out(options) else set())
    if empty := [name for name in SPLITS if not splits[name] and name not in may_be_empty]:
        smallest = f"the smallest set of records that share images has {min(members for _, members in ranked)}" if ranked else ""
        what = f"no split is possible: no record is left for {empty[0]}; {smallest or 'let records name it'}"
        raise ValueError(f"{what}; change --val or --test, or hold nothing out by --val 0")
    return splits


def _resolve_named_splits(keys: Sequence[Key], counts: Sequence[Counts]) -> list[Key]:
    """The keys without those that share an image with a more strictly held-out split than their own.

    A key that names no split and shares an image with a training record is assigned to training.
    """
    split_of_set: dict[int, str] = {}
    for key in keys:
        if key.split:
            split_of_set[key.group] = max(key.split, split_of_set.get(key.group, ""), key=held_out)
    kept = []
    for key in keys:
        winner = split_of_set.get(key.group, "")
        if winner == "train":
            key.split = "train"
        if key.split == winner:
            kept.append(key)
        else:
            drop(counts, [key], f"shares an image with the {winner} split")
    return kept


def _without_held_out(options: Options) -> bool:
    """Whether --val 0 says that nothing need be held out, and --test does not ask for anything."""
    return options.val == 0 and options.test is None


def _sizes(num_keys: int, num_free: int, num_sets: int, named: set[str], options: Options) -> dict[str, int]:
    """The number of records to draw for each held-out split that no record names, test first."""
    sizes = {}
    for name, size in {"test": options.test, "val": options.val}.items():
        if name not in named:
            sizes[name] = size if size is not None else min(DEFAULTS[name], max(1, num_keys // 10))
        elif size is not None:
            raise ValueError(f"--{name} {size}: there are records that name the split {name} themselves, so it holds exactly these")
    if _without_held_out(options) and num_sets < 2:
        sizes = dict.fromkeys(sizes, 0)
    if any(sizes.values()) and not num_free:
        name = next(name for name, size in sizes.items() if size)
        raise ValueError(
            f"no record for the {name} split: every record names its split, and none names {name}; "
            f"let the converter name it for some records, or name no split for the records that the build may choose"
        )
    total = sum(sizes.values())
    if total > num_free or (total == num_free and "train" not in named):
        flags = " ".join(f"--{name} {size}" for name, size in sizes.items())
        raise ValueError(f"{flags}: give numbers whose sum is below the number of records, {num_free}; --val 0 for no held-out records")
    return sizes


def _ranked_sets(keys: Sequence[Key], seed: int) -> list[tuple[int, int]]:
    """(group, number of records) of each set, in an order that depends only on the content and the seed."""
    members = Counter(key.group for key in keys)
    names: dict[int, str] = {}
    for key in keys:
        names[key.group] = min(names.get(key.group, key.record_id), key.record_id)
    return [(group, members[group]) for group in sorted(names, key=lambda group: rank(seed, f"split:{names[group]}"))]
