# SPDX-License-Identifier: Apache-2.0
"""Which rows a training sees: shares, stages, orders, ties, numbers, and what is said where the data lack what is asked for."""

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from critic_r1_verl import mixture
from critic_r1_verl.mixture import Fact, Mixture, Place

PAIRS = [Fact(f"p{number}", "12" if number % 2 else "21", "tie" if number < 4 else "1", number % 4 > 0) for number in range(40)]
QUESTIONS = [Fact(f"q{number}", "", "7", True) for number in range(20)]
UNKNOWN = [Fact(f"u{number}", "", "", True) for number in range(10)]
FACTS = [*PAIRS, *QUESTIONS]


def kinds(facts: list[Fact], settings: dict[str, Any]) -> list[str]:
    """The kind of each chosen row: i and t for pairs with and without an image, q for questions."""
    places = mixture.choose(facts, Mixture(**settings))
    return [("i" if facts[place.row].has_image else "t") if facts[place.row].order else "q" for place in places]


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, {"i": 30, "t": 10}),
        ({"number": 8}, {"i": 7, "t": 1}),
        ({"number": 1000}, {"i": 30, "t": 10}),
        ({"number": 8, "times": 2.0}, {"i": 13, "t": 3}),
        ({"times": 0.5}, {"i": 16, "t": 4}),
        ({"ties": False}, {"i": 27, "t": 9}),
        ({"stages": ({"question": 1.0},)}, {"q": 20}),
        # All questions, and as many pairs as their share allows.
        ({"stages": ({"image_pair": 0.5, "question": 0.5},)}, {"i": 20, "q": 20}),
        ({"stages": ({"image_pair": 0.75, "question": 0.25},), "number": 16}, {"i": 12, "q": 4}),
        # A share of 0 needs no row.
        ({"stages": ({"text_pair": 1.0, "question": 0.0},)}, {"t": 10}),
        ({"stages": ({"text_pair": 1.0}, {"image_pair": 1.0})}, {"t": 10, "i": 30}),
        ({"stages": ({"text_pair": 1.0}, {"image_pair": 1.0}), "number": 12}, {"t": 6, "i": 6}),
    ],
)
def test_shares_and_numbers(settings: dict[str, Any], count: dict[str, int]) -> None:
    assert Counter(kinds(FACTS, settings)) == count


def test_questions_without_an_answer_are_for_those_who_ask_for_them() -> None:
    for kind, number in (("question", 20), ("any_question", 30)):
        assert len(kinds([*FACTS, *UNKNOWN], {"stages": ({kind: 1.0},)})) == number
    with pytest.raises(ValueError, match="no row of the kind 'question'"):
        kinds(UNKNOWN, {"stages": ({"question": 1.0},)})


def test_shares_hold_in_each_step_and_stages_follow_each_other() -> None:
    mixed = kinds(FACTS, {"stages": ({"image_pair": 0.75, "question": 0.25},), "number": 16})
    assert all(mixed[start : start + 4].count("q") == 1 for start in range(0, 16, 4))
    assert "".join(kinds(FACTS, {"stages": ({"question": 1.0}, {"text_pair": 1.0}), "number": 8})) == "qqqqtttt"


def test_no_row_comes_twice_and_more_rows_are_those_of_fewer_and_others() -> None:
    chosen = [mixture.choose(FACTS, Mixture(number=8, times=times)) for times in (0.5, 1, 2)]
    assert [len(places) for places in chosen] == [4, 8, 16]
    assert all(shorter == longer[: len(shorter)] for shorter, longer in pairwise(chosen))
    assert sorted(mixture.choose(FACTS, Mixture())) == [Place(number) for number in range(40)]
    assert mixture.choose(FACTS, Mixture(seed=2)) != mixture.choose(FACTS, Mixture())
    # Two stages of the same kind share no row, nor do the rows depend on the sequence of the data.
    halves = mixture.choose(FACTS, Mixture(stages=({"pair": 1.0}, {"pair": 1.0}), number=20))
    assert len(set(halves)) == 20
    turned = mixture.choose(FACTS[::-1], Mixture(number=8))
    assert [FACTS[::-1][place.row] for place in turned] == [FACTS[place.row] for place in chosen[1]]


@pytest.mark.parametrize("orders", ["both", "together"])
def test_both_orders_are_beside_each_other(orders: Any) -> None:
    # Of one pair the data have both orders already.
    facts = [*PAIRS, Fact("p1", "21", "2", True)]
    places = mixture.choose(facts, Mixture(orders=orders, number=12, times=5.0))
    assert len(places) == 60
    mixture.check_steps(places, facts, 4)
    for first, second in zip(places[::2], places[1::2], strict=True):
        assert facts[first.row].record_id == facts[second.row].record_id
        shown = [facts[place.row].order[:: -1 if place.exchanged else 1] for place in (first, second)]
        assert shown == ["12", "21"]
        assert (facts[first.row].record_id == "p1") == (first.row != second.row)
    with pytest.raises(ValueError, match=r"the two orders of pair p.* different batches of 5 rows; take an even number"):
        mixture.check_steps(places, facts, 5)


def test_validation_shows_all_pairs_before_all_questions() -> None:
    facts = [FACTS[50], *FACTS[:3], FACTS[51]]
    pairs = [Place(1, exchanged=True), Place(1), Place(2), Place(2, exchanged=True), Place(3, exchanged=True), Place(3)]
    assert mixture.validation(facts, "both") == [*pairs, Place(0), Place(4)]
    assert mixture.validation(facts, "built") == [Place(1), Place(2), Place(3), Place(0), Place(4)]
    with pytest.raises(ValueError, match=r"critic_r1\.val_orders=none: give one of built, both, together"):
        mixture.validation(facts, "none")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "settings", "message"),
    [
        (PAIRS, {"stages": ({"question": 1.0},)}, "no row of the kind 'question'.* share of 1 .*questions with answers"),
        (PAIRS, {"stages": ({"pair": 0.9, "question": 0.1},)}, "no row of the kind 'question'.* share of 0.1 "),
        (QUESTIONS, {}, "no row of the kind 'pair'.*build the data with preference pairs"),
        ([], {}, "no row of the kind 'pair'"),
        (
            PAIRS,
            {"times": 2.0},
            r"80 rows of the kind 'pair' are asked for \(critic_r1.rows.times=2\), and there are 40; .*critic_r1.rows.number",
        ),
        (PAIRS, {"stages": ({"pair": 1.0}, {"pair": 1.0})}, "no row of the kind 'pair'"),
        (PAIRS[4:], {"ties": False}, "critic_r1.rows.ties=false leaves out no row"),
        (PAIRS, {"stages": ({"pairs": 1.0},)}, "'pairs' is no kind of row; the kinds are pair, image_pair, text_pair, question"),
        (PAIRS, {"stages": ({"pair": 0.5},)}, "do not add up to 1"),
        (PAIRS, {"stages": ({"pair": 1.5, "question": -0.5},)}, "do not add up to 1, each from 0 to 1"),
        (PAIRS, {"stages": ({"pair": 0.5, "text_pair": 0.5},)}, "names some pairs twice"),
        (PAIRS, {"stages": ({"question": 0.5, "any_question": 0.5},)}, "names some questions twice"),
        (PAIRS, {"stages": ()}, "critic_r1.rows.stages is empty"),
        (
            FACTS,
            {"stages": ({"pair": 0.95, "question": 0.05},), "number": 8},
            "of 8 rows, a share of 0.05 is no row of the kind 'question'",
        ),
        (PAIRS, {"number": 1, "orders": "both"}, "of 1 rows, a share of 1 is no row of the kind 'pair'; ask for more"),
        (PAIRS, {"number": 0}, "critic_r1.rows.number=0: give a whole number above 0"),
        (PAIRS, {"number": 2.5}, "critic_r1.rows.number=2.5"),
        (PAIRS, {"times": 0}, "critic_r1.rows.times=0: give a number above 0"),
        (PAIRS, {"orders": "random"}, "critic_r1.rows.orders=random: give one of built, both, together"),
        (PAIRS, {"labels": "dice"}, "critic_r1.rows.labels=dice: give one of given, coin"),
        (PAIRS, {"ties": "no"}, "critic_r1.rows.ties=no: give one of True, False"),
        (PAIRS, {"seeds": 1}, "critic_r1.rows: .*'seeds'"),
    ],
)
def test_what_cannot_be_asked_for_is_said(facts: list[Fact], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixture.choose(facts, mixture.read({"stages": ({"pair": 1.0},)} | settings))


def test_the_coin_depends_on_the_pair_alone() -> None:
    names = [f"{number:020x}" for number in range(1000)]
    heads = [mixture.coin(name, "12") for name in names]
    assert abs(heads.count("1") - 500) < 60 and set(heads) == {"1", "2"}
    assert all(mixture.coin(name, "21") != head for name, head in zip(names, heads, strict=True))


@pytest.mark.parametrize("key", ["pair_id", "order", "style"])
def test_a_row_without_what_is_needed_is_named(key: str) -> None:
    row = {
        "reward_model": {"ground_truth": "1"},
        "images": [],
        "extra_info": {"pair_id": "a", "order": "12", "style": "verdict", key: None},
    }
    with pytest.raises(ValueError, match=rf"extra_info\.{key} is missing; build the data again"):
        mixture.fact(row)
