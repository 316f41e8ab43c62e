# SPDX-License-Identifier: Apache-2.0
import random

import pytest

from critic_r1_verl.scoring.estimates import Estimate, Values, estimate, paired_difference

Z = 1.959963984540054
BEFORE, AFTER = [0, 0, 0, 0, 1, 1, 0, 0], [1, 1, 0, 0, 0, 1, 1, 0]


def close(measured: Estimate, value: float, n: int, ci95: list[float]) -> bool:
    return (measured.n, measured.value, list(measured.ci95)) == (n, pytest.approx(value, abs=1e-8), pytest.approx(ci95, abs=1e-8))


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
    assert close(estimate(values, clusters), value, len(values), [max(0, low), min(1, high)])


@pytest.mark.parametrize("values", [[3, 5, 10, 2], [7, 7, 7], [0, 0]])
def test_numbers_without_a_bound_are_scaled_shares(values):
    most = max(values) or 1
    shares = estimate([value / most for value in values])
    found = estimate(values, bounded=False)
    assert found.value == pytest.approx(most * shares.value)
    if most > 1:
        # A share ends at 1, a number does not.
        assert found.ci95[0] == pytest.approx(most * shares.ci95[0]) and found.ci95[1] >= most * shares.ci95[1] - 1e-9
    assert paired_difference(values, values, bounded=False).value == 0


def test_values_are_paired_by_key_not_by_position():
    clusters = {"p": 0, "q": 1, "r": 2}
    before = Values({("p",): 0.0, ("q",): 1.0, ("r",): 1.0}, clusters)
    after = Values({("r",): 1.0, ("q",): 0.0, ("p",): 0.0}, clusters)
    assert after.difference(before) == paired_difference([0, 1, 1], [0, 0, 1], [0, 1, 2])
    with pytest.raises(ValueError, match="r is only in the first run"):
        Values({("p",): 0.0, ("q",): 1.0}, clusters).difference(before)


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
    assert close(paired_difference(before, after, clusters), value, len(before), ci95)


def test_clusters_of_one_size_are_their_means():
    draw = random.Random(1)
    values = [draw.random() for _ in range(60)]
    means = [sum(values[start : start + 3]) / 3 for start in range(0, 60, 3)]
    clustered, plain = estimate(values, [position // 3 for position in range(60)]), estimate(means)
    assert clustered.ci95 == pytest.approx(plain.ci95) and clustered.value == pytest.approx(plain.value)


def test_the_interval_covers_the_truth_95_times_in_100():
    draw = random.Random(20)
    covered, covered_naively, differences_covered, trials = 0, 0, 0, 1500
    for _ in range(trials):
        # Each pair is easy (0.9) or hard (0.3), so its two judgements are alike: the true mean is 0.6.
        skills = [draw.choice([0.9, 0.3]) for _ in range(80)]
        clusters = [pair for pair in range(80) for _ in range(2)]
        before = [float(draw.random() < skills[pair]) for pair in clusters]
        after = [float(draw.random() < skills[pair] + 0.1) for pair in clusters]
        low, high = estimate(before, clusters).ci95
        covered += low <= 0.6 <= high
        low, high = estimate(before).ci95
        covered_naively += low <= 0.6 <= high
        low, high = paired_difference(before, after, clusters).ci95
        differences_covered += low <= 0.1 <= high
    assert 0.935 <= covered / trials <= 0.965
    assert 0.935 <= differences_covered / trials <= 0.965
    assert covered_naively < covered - 0.02 * trials


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
