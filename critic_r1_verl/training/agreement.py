# SPDX-License-Identifier: Apache-2.0
"""Whether rollout and actor compute the same probabilities, step by step.

GRPO takes the tokens that vLLM sampled for samples of the actor's own distribution. Where the two differ (weights that were not synced, an
adapter that was not loaded, another precision, other images), training goes on without an error and learns from noise. verl computes the
actor's probabilities of the sampled tokens anyway, and logs how they correlate with vLLM's (verl/utils/debug/metrics.py; the switch is
actor_rollout_ref.rollout.calculate_log_probs, on by default).
"""

import math
import os
from typing import Any

CORRELATION, DIFFERENCE = "training/rollout_actor_probs_pearson_corr", "training/rollout_probs_diff_mean"

MIN_CORRELATION = "CRITIC_R1_MIN_CORRELATION"
"""The least correlation with which a run goes on, in the environment; 0 is off. Sound runs have 0.99 and more."""

STEPS_IN_A_ROW = 3


class Agreement:
    """Told each step in turn, says when a run must not go on. ValueError for a bad least correlation in the environment."""

    def __init__(self) -> None:
        value = os.environ.get(MIN_CORRELATION, "0.98")
        try:
            self._least = float(value)
        except ValueError:
            self._least = math.nan
        if not 0 <= self._least <= 1:
            raise ValueError(f"{MIN_CORRELATION}={value}: not a correlation; give a number from 0 (off) to 1")
        self._first, self._below = True, 0

    def problem(self, step: dict[str, Any]) -> str | None:
        """Why the run must not go on after this line of its step file, in one line.

        At the first step, where nothing is lost yet, one low correlation is enough; later it takes STEPS_IN_A_ROW of them, since a single
        batch may be odd. A step without the metric, or with none that is a number, says nothing.
        """
        correlation = step["data"].get(CORRELATION)
        if not self._least or correlation is None or math.isnan(correlation):
            return None
        self._below = self._below + 1 if correlation < self._least else 0
        enough = 1 if self._first else STEPS_IN_A_ROW
        self._first = False
        if self._below < enough:
            return None
        difference = step["data"].get(DIFFERENCE)
        mean = "" if difference is None else f"; they differ by {difference:.4f} on average"
        return (
            f"at step {step['step']} the probabilities of rollout and actor correlate by {correlation:.3f} only, not by {self._least:g} "
            f"or more{mean}: vLLM samples from another model than the one that is trained, so training would learn from noise. Compare "
            f"precision, attention and LoRA settings of both sides with a run that agrees; {MIN_CORRELATION}=0 lets the run go on"
        )
