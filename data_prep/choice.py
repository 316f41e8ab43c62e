# SPDX-License-Identifier: Apache-2.0
"""Which of the distinct records a build takes: first by the policy for ties, then by quotas or weights. Choices are by hash and seed."""

import math
from collections.abc import Sequence
from typing import Any, Literal

from data_prep.merge import Key, drop, rank
from data_prep.options import Corpus, Options
from data_prep.shards import Counts


def check(corpora: Sequence[Corpus], options: Options) -> None:
    """ValueError for --ties, --quota and --weight that no records could satisfy; a build calls it before it reads a row."""
    if options.ties not in ("keep", "drop") and not 0 <= float(options.ties) < 1:
        raise ValueError(f"--ties {options.ties}: give keep, drop, or a share from 0 to below 1")
    weights = [corpus.weight for corpus in corpora]
    if any(weight is not None for weight in weights) and (
        not all(weight is not None and weight > 0 for weight in weights) or any(corpus.quota is not None for corpus in corpora)
    ):
        raise ValueError("--weight: give every corpus a weight above 0 and none a quota, or give only quotas")


def choose(keys: Sequence[Key], corpora: Sequence[Corpus], options: Options, counts: Sequence[Counts]) -> tuple[list[Key], dict[str, Any]]:
    """The keys that are taken, in the order of the corpora, and the numbers of ties for the manifest.

    Ties are dropped first; a quota keeps the share of the remaining ties. The options are those that check() accepts.
    """
    by_corpus: list[tuple[list[Key], list[Key]]] = [([], []) for _ in corpora]
    for key in keys:
        by_corpus[key.corpus][key.preferred == "tie"].append(key)
    dropped_ties = 0
    for others, ties in by_corpus:
        ties.sort(key=lambda key: rank(options.seed, key.record_id))
        allowed = _allowed_ties(len(others), len(ties), options.ties)
        drop(counts, ties[allowed:], "tie")
        dropped_ties += len(ties) - allowed
        del ties[allowed:]
    quotas = quotas_of(corpora, [len(others) + len(ties) for others, ties in by_corpus])
    chosen = []
    for (others, ties), quota in zip(by_corpus, quotas, strict=True):
        if quota < len(others) + len(ties):
            num_ties = quota * len(ties) // (len(others) + len(ties))
            others.sort(key=lambda key: rank(options.seed, key.record_id))
            drop(counts, others[quota - num_ties :] + ties[num_ties:], "beyond the quota")
            del others[quota - num_ties :], ties[num_ties:]
        chosen += others + ties
    chosen.sort(key=lambda key: (key.shard, key.offset))
    return chosen, {"policy": options.ties, "kept": sum(key.preferred == "tie" for key in chosen), "dropped": dropped_ties}


def quotas_of(corpora: Sequence[Corpus], available: Sequence[int]) -> list[int]:
    """The largest number of records to take of each corpus: its quota, or the most that keeps the proportions of the weights."""
    weights = [corpus.weight for corpus in corpora if corpus.weight is not None]
    if not weights:
        return [number if corpus.quota is None else corpus.quota for corpus, number in zip(corpora, available, strict=True)]
    scale = min(number / weight for number, weight in zip(available, weights, strict=True))
    # Floating-point error may put a product such as 0.29 * 100 just below the whole number.
    return [math.floor(weight * scale + 1e-9) for weight in weights]


def _allowed_ties(num_others: int, num_ties: int, policy: Literal["keep", "drop"] | float) -> int:
    if policy == "keep":
        return num_ties
    if policy == "drop":
        return 0
    return min(num_ties, math.floor(num_others * policy / (1 - policy) + 1e-9))
