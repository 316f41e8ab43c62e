# SPDX-License-Identifier: Apache-2.0
"""What both orders of a pair say together: agreement, right in both, what is paid, and the means that are logged."""

import re
from typing import Any

import pytest

from critic_r1_verl import pairing
from critic_r1_verl.pairing import Rollout
from critic_r1_verl.reward import compute_score


def rollout(order: str, said: str | None, gold: str = "1", *, pair: str = "a", session: str = "0", source: str = "demo") -> Rollout:
    """A rollout that says `said` in the shown frame, scored by the reward; gold is in the frame of the record."""
    text = "nothing" if said is None else f"<think>why</think> \\boxed{{{said}}}"
    shown = gold if order != "21" else {"1": "2", "2": "1", "tie": "tie"}[gold]
    info = compute_score(source, text, shown, {"style": "verdict" if order else "math"})
    return Rollout(record_id=pair, order=order, session=session, source=source, tokens=5, info=info)


@pytest.mark.parametrize(
    ("first", "second", "consistent", "strict"),
    [
        ("1", "2", 1, 1),
        ("2", "1", 1, 0),
        # Always the first one, and always the second one.
        ("1", "1", 0, 0),
        ("2", "2", 0, 0),
        ("tie", "tie", 1, 0),
        ("tie", "1", 0, 0),
        ("1", None, 0, 0),
        (None, None, 0, 0),
    ],
)
def test_what_two_verdicts_say_together(first: str | None, second: str | None, consistent: int, strict: int) -> None:
    one, other = pairing.compared([rollout("12", first), rollout("21", second)])
    assert (one["consistent"], one["strict"]) == (other["consistent"], other["strict"]) == (consistent, strict)


def test_a_rollout_is_compared_with_its_own_number_in_the_other_order() -> None:
    batch = [
        rollout("12", "1", session="0"),
        rollout("12", "2", session="1"),
        rollout("21", "2", session="0"),
        rollout("21", "2", session="1"),
        rollout("12", "1", pair="b"),
        rollout("", "1", pair="q"),
    ]
    infos = pairing.compared(batch)
    assert [info.get("strict") for info in infos] == [1, 0, 1, 0, None, None]
    assert pairing.added_scores(batch, infos, "strict", 0.9) == pytest.approx([0, 0, 0, -0.9, -0.9, 0])
    assert pairing.added_scores(batch, infos, "acc", 0.9) == [0] * 6


def test_agreement_is_paid_without_a_label() -> None:
    batch = [rollout("12", "2"), rollout("21", "1"), rollout("12", "1", session="1"), rollout("21", "1", session="1")]
    infos = pairing.compared(batch)
    scores = [info["score"] + added for info, added in zip(infos, pairing.added_scores(batch, infos, "consistent", 0.9), strict=True)]
    assert scores == pytest.approx([1, 1, 0.1, 0.1])


@pytest.mark.parametrize(
    ("batch", "is_refused"),
    [
        ([], False),
        ([rollout("", "1")], False),
        ([rollout("12", "1"), rollout("21", "2")], False),
        # One of two pairs lost an order by an error in its rollouts.
        ([rollout("12", "1"), rollout("21", "2"), rollout("12", "1", pair="b")], False),
        ([rollout("12", "1")], True),
        ([rollout("12", "1"), rollout("21", "2", pair="b"), rollout("", "1")], True),
    ],
)
def test_a_batch_that_parts_all_pairs_is_refused(batch: list[Rollout], is_refused: bool) -> None:
    infos = pairing.compared(batch)
    if not is_refused:
        return pairing.check_orders(batch, infos)
    with pytest.raises(ValueError, match=r"no pair .*orders=together data.shuffle=false, .*even data.train_batch_size"):
        pairing.check_orders(batch, infos)


@pytest.mark.parametrize(
    ("paid", "group", "whole_steps", "message"),
    [
        ("score", "prompt", True, "critic_r1.paid=score: give one of acc, consistent, strict"),
        ("acc", "all", True, "critic_r1.group=all: give one of prompt, pair"),
        ("strict", "prompt", False, "critic_r1.paid=strict critic_r1.group=prompt needs both orders"),
        ("acc", "pair", False, "not with algorithm.filter_groups.enable=true, and only with trainer.v1.trainer_mode=sync"),
    ],
)
def test_a_setting_that_cannot_be_had_is_named(paid: str, group: str, whole_steps: bool, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        pairing.check(paid, group, whole_steps=whole_steps)


def test_a_reward_of_each_verdict_by_itself_needs_no_other_order() -> None:
    assert not pairing.check("acc", "prompt", whole_steps=False)
    assert pairing.check("acc", "pair", whole_steps=True)


def test_means_of_all_and_of_each_source() -> None:
    batch = [rollout("12", "1"), rollout("21", None), rollout("", "1", source="demo/policy"), rollout("", "2", source="demo/policy")]
    found = pairing.metrics(batch, pairing.compared(batch))
    expected: dict[str, Any] = {"acc": 0.5, "format": 0.75, "unparsed": 0.25, "first": 0.5, "tie": 0, "consistent": 0, "strict": 0}
    expected |= {"demo/acc": 0.5, "demo/format": 0.5, "demo/unparsed": 0.5, "demo/first": 0.5, "demo/tie": 0, "demo/consistent": 0}
    expected |= {"demo/strict": 0, "demo/policy/acc": 0.5, "demo/policy/format": 1, "demo/policy/unparsed": 0}
    assert found == {f"reward/{part}/mean": value for part, value in expected.items()}
    assert pairing.metrics([], []) == {}
