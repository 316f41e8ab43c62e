# SPDX-License-Identifier: Apache-2.0
"""Train, validation and test: records that share an image or a part of their group are always in the same split.

A converter may set the split of a record. A held-out split that some record names holds exactly the records that name it; one that no
record names is drawn by hash, in whole sets, from the records that name none. What is left is for training. Where records of one set name
different splits, the split that is held out the most wins (test before val before train), and the records of the set that do not name it
are skipped with a count.
"""

from collections import Counter
from collections.abc import Sequence

from critic_r1_verl.records import SPLITS
from data_prep.merge import Key, drop, held_out, rank
from data_prep.options import Options
from data_prep.shards import Counts

DEFAULTS = {"test": 512, "val": 64}


def split(keys: Sequence[Key], options: Options, counts: Sequence[Counts]) -> dict[str, list[Key]]:
    """The keys of each split, in the order in which they are given. ValueError if a split would be empty."""
    keys = _settle_claims(keys, counts)
    named = {key.split for key in keys} - {""}
    free = [key for key in keys if not key.split]
    sizes = _sizes(len(keys), len(free), named, options)
    ranked = _ranked_sets(free, options.seed)
    taken: dict[int, str] = {}
    for name, size in sizes.items():
        for group, members in ranked:
            if group not in taken and members <= size:
                taken[group] = name
                size -= members
    splits: dict[str, list[Key]] = {name: [] for name in SPLITS}
    for key in keys:
        splits[key.split or taken.get(key.group, "train")].append(key)
    if empty := [name for name in SPLITS if not splits[name]]:
        smallest = f"the smallest set of records that share images has {min(members for _, members in ranked)}" if ranked else ""
        raise ValueError(
            f"no split is possible: nothing is left for {empty[0]}; {smallest or 'let records name it'}; change --val or --test"
        )
    return splits


def _settle_claims(keys: Sequence[Key], counts: Sequence[Counts]) -> list[Key]:
    """The keys without those that share an image with a split that is held out more than their own.

    A key that names no split and shares images with training records is for training too.
    """
    claims: dict[int, str] = {}
    for key in keys:
        if key.split:
            claims[key.group] = max(key.split, claims.get(key.group, ""), key=held_out)
    kept = []
    for key in keys:
        claim = claims.get(key.group, "")
        if claim == "train":
            key.split = "train"
        if key.split == claim:
            kept.append(key)
        else:
            drop(counts, [key], f"shares an image with the {claim} split")
    return kept


def _sizes(num_keys: int, num_free: int, named: set[str], options: Options) -> dict[str, int]:
    """How many records to draw for each held-out split that no record names, test first."""
    wanted = {"test": options.test, "val": options.val}
    sizes = {}
    for name, asked in wanted.items():
        if name not in named:
            sizes[name] = asked if asked is not None else min(DEFAULTS[name], max(1, num_keys // 10))
        elif asked is not None:
            raise ValueError(f"--{name} {asked}: there are records that name the split {name} themselves, so it holds exactly these")
    if sizes and not num_free:
        name = next(iter(sizes))
        raise ValueError(
            f"no record for the {name} split: every record names its split, and none names {name}; "
            f"let the converter name it, or set no split where the build may choose"
        )
    total = sum(sizes.values())
    if min(sizes.values(), default=1) < 1 or total > num_free or (total == num_free and "train" not in named):
        asked_for = " ".join(f"--{name} {size}" for name, size in sizes.items())
        raise ValueError(f"{asked_for}: give numbers above 0 whose sum is below that of the records, {num_free}")
    return sizes


def _ranked_sets(keys: Sequence[Key], seed: int) -> list[tuple[int, int]]:
    """(group, number of records) of each set of records that share images, in an order that depends on content and seed alone."""
    members = Counter(key.group for key in keys)
    names: dict[int, str] = {}
    for key in keys:
        names[key.group] = min(names.get(key.group, key.record_id), key.record_id)
    return [(group, members[group]) for group in sorted(names, key=lambda group: rank(seed, f"split:{names[group]}"))]
