# SPDX-License-Identifier: Apache-2.0
import math

import pytest

from critic_r1_verl.training.agreement import CORRELATION, MIN_CORRELATION, Agreement


@pytest.mark.parametrize(
    ("least", "correlations", "stopped_at"),
    [
        (None, [0.999, 0.99, 0.98], None),
        (None, [0.979], 0),
        # An odd batch in the course of a run, then a run that has lost its weights.
        (None, [0.999, 0.5, 0.999, 0.9, 0.9, 0.999], None),
        (None, [0.999, 0.5, 0.9, -0.1], 3),
        # Nothing is known where all probabilities are equal, or verl does not compute it.
        (None, [math.nan, None, 0.999], None),
        ("0", [-0.5, -0.5, -0.5, 0.1], None),
        ("0.999", [0.998], 0),
    ],
)
def test_when_a_run_is_stopped(monkeypatch, least, correlations, stopped_at):
    monkeypatch.delenv(MIN_CORRELATION, raising=False)
    if least is not None:
        monkeypatch.setenv(MIN_CORRELATION, least)
    agreement = Agreement()
    problems = [
        agreement.problem({"step": n, "data": {} if value is None else {CORRELATION: value}}) for n, value in enumerate(correlations)
    ]
    assert [n for n, problem in enumerate(problems) if problem][:1] == ([] if stopped_at is None else [stopped_at])


@pytest.mark.parametrize("value", ["high", "1.5", "-1", "nan"])
def test_a_bad_setting_is_refused(monkeypatch, value):
    monkeypatch.setenv(MIN_CORRELATION, value)
    with pytest.raises(ValueError, match=f"{MIN_CORRELATION}={value}: not a correlation; give a number from 0"):
        Agreement()
