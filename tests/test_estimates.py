# SPDX-License-Identifier: Apache-2.0
import copy
import json
import random
from pathlib import Path

import pytest

from critic_r1_verl.scoring.estimates import difference, estimate, paired_difference, summarise

GOLDEN = json.loads((Path(__file__).parent / "golden/metrics.json").read_text(encoding="utf-8"))
KEYS = [
    "critic_accuracy",
    "position_consistency",
    "unparsed_rate",
    "policy_accuracy",
    "single_accuracy",
    "majority_accuracy",
    "self_critique_accuracy",
]
Z = 1.959963984540054
BEFORE, AFTER = [0, 0, 0, 0, 1, 1, 0, 0], [1, 1, 0, 0, 0, 1, 1, 0]


def inputs(who: str = "base"):
    lines = copy.deepcopy(GOLDEN["inputs"][who])
    return lines["judgements"], lines["answers"], lines["selections"]


def close(measured: dict, expected: dict) -> bool:
    return (
        measured.keys() == expected.keys()
        and measured["n"] == expected["n"]
        and measured["value"] == pytest.approx(expected["value"], abs=1e-8)
        and measured["ci95"] == pytest.approx(expected["ci95"], abs=1e-8)
    )


@pytest.mark.parametrize(
    "values, clusters, value, ci95",
    [
        # Residuals +-1/2, variance 1/4 * 10/9 / 10 = 1/36, so the half width is Z/6.
        ([0, 1] * 5, None, 0.5, [0.5 - Z / 6, 0.5 + Z / 6]),
        # Cluster sums of residuals 1, -1, 0, 0, 0, 0: variance (1 + 1) * 6/5 / 12^2 = 1/60.
        ([1, 1, 0, 0, *[1, 0] * 4], list("aabbccddeeff"), 0.5, [0.5 - Z / 60**0.5, 0.5 + Z / 60**0.5]),
        # Clusters of different sizes: mean 3/5, sums of residuals 4/5, -6/5, 2/5 (squares 56/25), variance 56/25 * 3/2 / 25.
        ([1, 1, 0, 0, 1], list("aabbc"), 0.6, [0.6 - Z * 0.1344**0.5, 1.0]),
        # All right or all wrong: Wilson for 0 or 10 of 10.
        ([1] * 10, None, 1.0, [10 / (10 + Z**2), 1.0]),
        ([0] * 10, None, 0.0, [0.0, Z**2 / (10 + Z**2)]),
        # Ten judgements of five pairs are five draws, whether all right or always the first response.
        ([1] * 10, list("aabbccddee"), 1.0, [5 / (5 + Z**2), 1.0]),
        ([1, 0] * 5, list("aabbccddee"), 0.5, [0.5 - Z**2 / (5 + Z**2), 0.5 + Z**2 / (5 + Z**2)]),
        ([0.25], None, 0.25, [0.0, 1.0]),
    ],
)
def test_estimate_by_hand(values, clusters, value, ci95):
    low, high = ci95
    assert close(estimate(values, clusters), {"value": value, "n": len(values), "ci95": [max(0, low), min(1, high)]})


@pytest.mark.parametrize(
    "before, after, clusters, value, ci95",
    [
        # Differences 1, 1, 0, 0 and -1, 0, 1, 0 in eight clusters: residuals squared sum to 4 - 8/16 = 3.5.
        (BEFORE, AFTER, None, 0.25, [0.25 - Z / 4, 0.25 + Z / 4]),
        # The same in four clusters of two: sums of residuals 3/2, -1/2, -3/2, 1/2, squares 5, variance 5 * 4/3 / 64.
        (BEFORE, AFTER, list("aabbccdd"), 0.25, [0.25 - Z * (5 / 48) ** 0.5, 0.25 + Z * (5 / 48) ** 0.5]),
        # A model that never changes may still differ on what was not asked.
        ([1, 0, 1], [1, 0, 1], None, 0.0, [-(Z**2) / (3 + Z**2), Z**2 / (3 + Z**2)]),
        ([1, 1], [0, 0], None, -1.0, [-1.0, -1.0 + Z**2 / (2 + Z**2)]),
    ],
)
def test_paired_difference_by_hand(before, after, clusters, value, ci95):
    assert close(paired_difference(before, after, clusters), {"value": value, "n": len(before), "ci95": ci95})


def test_clusters_of_one_size_are_their_means():
    draw = random.Random(1)
    values = [draw.random() for _ in range(60)]
    means = [sum(values[start : start + 3]) / 3 for start in range(0, 60, 3)]
    clustered, plain = estimate(values, [position // 3 for position in range(60)]), estimate(means)
    assert clustered["ci95"] == pytest.approx(plain["ci95"]) and clustered["value"] == pytest.approx(plain["value"])


def test_the_interval_covers_the_truth_95_times_in_100():
    draw = random.Random(20)
    covered, covered_naively, differences_covered, trials = 0, 0, 0, 1500
    for _ in range(trials):
        # Each pair is easy (0.9) or hard (0.3), so its two judgements are alike: the true mean is 0.6.
        skills = [draw.choice([0.9, 0.3]) for _ in range(80)]
        clusters = [pair for pair in range(80) for _ in range(2)]
        before = [float(draw.random() < skills[pair]) for pair in clusters]
        after = [float(draw.random() < skills[pair] + 0.1) for pair in clusters]
        low, high = estimate(before, clusters)["ci95"]
        covered += low <= 0.6 <= high
        low, high = estimate(before)["ci95"]
        covered_naively += low <= 0.6 <= high
        low, high = paired_difference(before, after, clusters)["ci95"]
        differences_covered += low <= 0.1 <= high
    assert 0.935 <= covered / trials <= 0.965
    assert 0.935 <= differences_covered / trials <= 0.965
    assert covered_naively < covered - 0.02 * trials


@pytest.mark.parametrize("who", ["base", "trained"])
def test_summary_equals_the_golden_one(who):
    summary = summarise(*inputs(who))
    assert list(summary) == KEYS
    assert [name for name in KEYS if not close(summary[name], GOLDEN["summary"][who][name])] == []


def test_difference_equals_the_golden_one():
    differences = difference(inputs("base"), inputs("trained"))
    assert list(differences) == KEYS
    assert [name for name in KEYS if not close(differences[name], GOLDEN["difference"][name])] == []


def test_the_order_of_the_lines_does_not_matter():
    base, trained = inputs("base"), inputs("trained")
    summary, differences = summarise(*base), difference(base, trained)
    for lines in base:
        random.Random(3).shuffle(lines)
    assert summarise(*base) == summary
    assert difference(base, trained) == differences


@pytest.mark.parametrize(
    "choices, consistent",
    [
        (("1", "2"), 1),
        (("2", "1"), 1),
        (("tie", "tie"), 1),
        (("1", "1"), 0),
        (("2", "2"), 0),
        (("1", "tie"), 0),
        (("1", None), 0),
        ((None, None), 0),
    ],
)
def test_position_consistency(choices, consistent):
    _, answers, selections = inputs()
    judgements = [
        {"pair_id": "p", "order": order, "repeat": 0, "choice": choice, "correct": False}
        for order, choice in zip(("12", "21"), choices, strict=True)
    ]
    summary = summarise(judgements, answers, selections)
    assert summary["position_consistency"]["value"] == consistent
    assert summary["unparsed_rate"]["value"] == choices.count(None) / 2


def test_repeats_are_judgements_of_the_same_pair():
    judgements, answers, selections = inputs()
    repeated = judgements + [line | {"repeat": 1} for line in judgements]
    once, twice = summarise(judgements, answers, selections), summarise(repeated, answers, selections)
    for name in ("critic_accuracy", "position_consistency", "unparsed_rate"):
        assert twice[name]["n"] == 2 * once[name]["n"]
        assert twice[name]["ci95"] == pytest.approx(once[name]["ci95"])


def change(which: int, position: int, **changes):
    def apply(lines):
        lines[which][position].update(changes)

    return apply


def drop(which: int, *positions: int):
    def apply(lines):
        lines[which][:] = [line for position, line in enumerate(lines[which]) if position not in positions]

    return apply


def forget(which: int, position: int, key: str):
    def apply(lines):
        del lines[which][position][key]

    return apply


DAMAGES = [
    (drop(0, 3), r"judgement \(p1, 0, 21\) is missing"),
    (change(0, 3, order="12"), r"judgement \(p1, 0, 12\) occurs twice"),
    (change(0, 3, order="2"), r"judgement \(p1, 0, 21\) is missing"),
    (change(0, 3, repeat=1), r"judgement \(p0, 1, 12\) is missing"),
    (change(0, 3, choice="A"), "the choice is none of"),
    (change(0, 0, choice=None), "correct although it has no choice"),
    (forget(0, 2, "choice"), "has no 'choice'"),
    (forget(0, 2, "correct"), "has no 'correct'"),
    (forget(1, 2, "question_id"), "has no 'question_id'"),
    (lambda lines: lines[0].append(dict(lines[0][0])), r"judgement \(p0, 0, 12\) occurs twice"),
    (lambda lines: lines[0].append(lines[0][0] | {"order": "34"}), r"judgement \(p0, 0, 34\) is none of those expected"),
    (lambda lines: lines[0].clear(), "critic_accuracy: there are no lines"),
    (lambda lines: lines[1].clear(), "policy_accuracy: there are no lines"),
    (drop(1, 0), r"policy_accuracy \(q0, greedy, 0\) is missing"),
    (drop(1, 1), r"single_accuracy \(q0, sample, 1\) is missing"),
    (change(1, 1, sample=2), r"answer \(q0, sample, 2\) occurs twice"),
    (drop(2, 0), r"majority_accuracy \(q0, majority\) is missing"),
    (drop(2, 1), r"self_critique_accuracy \(q0, self_critique\) is missing"),
    (drop(2, 0, 2, 4, 6), "majority_accuracy: there are no lines"),
    (change(2, 0, correct=1.5), "outside"),
    (change(2, 0, correct=float("nan")), "outside"),
    (change(2, 0, correct="True"), "neither a truth value nor a number"),
]


@pytest.mark.parametrize("damage, message", DAMAGES)
def test_a_damaged_line_is_named(damage, message):
    lines = inputs()
    damage(lines)
    with pytest.raises(ValueError, match=message):
        summarise(*lines)


def test_models_measured_on_different_things_are_not_compared():
    base, trained = inputs("base"), inputs("trained")
    drop(0, 0, 1)(trained)
    with pytest.raises(ValueError, match=r"critic_accuracy: \(p0, 0, 12\) is only in the base model's lines"):
        difference(base, trained)
    trained = inputs("trained")
    for lines in trained[1:]:
        for line in lines:
            line["question_id"] = line["question_id"].replace("q0", "q9")
    with pytest.raises(ValueError, match=r"policy_accuracy: \(q0, greedy, 0\) is only in the base"):
        difference(base, trained)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: estimate([]), "no values"),
        (lambda: estimate([1, 0], ["a"]), "2 values with 1 cluster"),
        (lambda: estimate([2.0]), "outside"),
        (lambda: estimate([float("nan"), 1.0]), "outside"),
        (lambda: paired_difference([1], [1, 0]), "cannot be paired"),
        (lambda: paired_difference([], []), "no values"),
        (lambda: paired_difference([2], [2]), "outside"),
    ],
)
def test_what_cannot_be_averaged_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
