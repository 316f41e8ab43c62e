# SPDX-License-Identifier: Apache-2.0
"""Which records are held out: sizes, splits that records name, and sets of records that share an image."""

from collections import Counter

import pytest

from data_prep import shards
from data_prep.merge import Key
from data_prep.options import Options
from data_prep.splits import split


def key(number: int, name: str = "", group: int | None = None) -> Key:
    return Key(
        record_id=f"{number:020x}",
        kind="pair" if number % 2 else "question",
        preferred="1" if number % 2 else "",
        split=name,
        corpus=0,
        shard=0,
        offset=number,
        group=number if group is None else group,
    )


def divided(keys: list[Key], **options: int) -> tuple[dict[str, list[int]], dict[str, int]]:
    """The numbers of the keys in each split, and what was skipped; nothing is lost without a count."""
    counts: list[shards.Counts] = [{"read": len(keys), "kept": len(keys), "skipped": Counter()}]
    found = split(keys, Options(pixels=(784, 200_704), **options), counts)
    assert counts[0]["kept"] == sum(map(len, found.values())) == len(keys) - counts[0]["skipped"].total()
    return {name: [one.offset for one in part] for name, part in found.items()}, dict(counts[0]["skipped"])


@pytest.mark.parametrize(
    ("num_keys", "options", "sizes"),
    [
        (20, {}, {"train": 16, "val": 2, "test": 2}),
        (5, {}, {"train": 3, "val": 1, "test": 1}),
        (20_000, {}, {"train": 20_000 - 512 - 64, "val": 64, "test": 512}),
        (20, {"val": 5, "test": 10}, {"train": 5, "val": 5, "test": 10}),
        (20, {"val": 0}, {"train": 18, "val": 0, "test": 2}),
        (20, {"val": 0, "test": 0}, {"train": 20, "val": 0, "test": 0}),
        (1, {"val": 0}, {"train": 1, "val": 0, "test": 0}),
    ],
)
def test_sizes_of_splits_that_no_record_names(num_keys: int, options: dict[str, int], sizes: dict[str, int]) -> None:
    found, skipped = divided([key(number) for number in range(num_keys)], **options)
    assert {name: len(part) for name, part in found.items()} == sizes and skipped == {}
    assert all(part == sorted(part) for part in found.values()), "the order of the corpora stays"


def test_the_drawn_splits_depend_on_content_and_seed_alone() -> None:
    keys = [key(number) for number in range(50)]
    first, _ = divided(keys)
    again, _ = divided(keys[::-1])
    assert {name: sorted(part) for name, part in again.items()} == first != divided(keys, seed=1)[0]


def test_a_named_split_holds_exactly_these_and_the_others_are_drawn() -> None:
    found, skipped = divided([key(number, "test" if number < 7 else "") for number in range(40)], val=3)
    assert found["test"] == list(range(7)) and (len(found["val"]), len(found["train"])) == (3, 30) and skipped == {}


def test_records_without_a_split_are_for_training_where_all_splits_are_named() -> None:
    found, _ = divided([key(0, "train"), key(1, "val"), key(2, "test"), key(3), key(4)])
    assert found == {"train": [0, 3, 4], "val": [1], "test": [2]}


def test_all_of_a_named_split_may_share_its_images() -> None:
    """The pictures of the digits share their scans, so that all records of a split are one set."""
    names = ["train"] * 8 + ["val"] * 2 + ["test"] * 3
    found, skipped = divided([key(number, name, len(name)) for number, name in enumerate(names)])
    assert {name: len(part) for name, part in found.items()} == Counter(names) and skipped == {}


def test_of_a_set_that_several_splits_claim_the_held_out_split_wins() -> None:
    claimed = [key(0, "test", 0), key(1, "train", 0), key(2, "val", 0), key(3, "", 0)]
    others = [key(4, "val", 1), key(5, "train", 1), key(6, "train", 2), key(7, "", 2), key(8, "train")]
    found, skipped = divided([*claimed, *others])
    assert found == {"train": [6, 7, 8], "val": [4], "test": [0]}
    assert skipped == {"shares an image with the test split": 3, "shares an image with the val split": 1}


def test_pairs_that_share_one_image_are_all_for_training() -> None:
    found, skipped = divided([key(number, group=0) for number in range(5)], val=0)
    assert found == {"train": list(range(5)), "val": [], "test": []} and skipped == {}


@pytest.mark.parametrize(
    ("names", "sets", "options", "message"),
    [
        (["train"] * 9, 9, {}, "no record for the test split: every record names its split, and none names test"),
        (["test"] * 3 + [""] * 6, 9, {"test": 3}, "--test 3: there are records that name the split test"),
        ([""] * 9, 9, {"val": 5, "test": 4}, "--test 4 --val 5: give numbers whose sum is below the number of records, 9; --val 0 for"),
        ([""] * 9, 2, {}, "no record is left for val; the smallest set .* has 4; .* by --val 0"),
        ([""] * 9, 1, {"val": 0, "test": 2}, "no record is left for test; the smallest set .* has 9"),
        (["test"] * 9, 2, {"val": 1}, "no record for the val split"),
    ],
)
def test_splits_that_are_not_possible(names: list[str], sets: int, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        divided([key(number, name, number % sets) for number, name in enumerate(names)], **options)
