# SPDX-License-Identifier: Apache-2.0
"""The reward of a response, which verl loads as `reward.custom_reward_function.path=pkg://critic_r1_verl.reward`.

verl calls compute_score in a thread pool, where an exception would mark the whole group of rollouts as failed without stopping the run. So
compute_score is pure, uses no signals, raises for no text, and is fast for every text. Evaluation uses the same parser, so the
reward is the metric.
"""

from typing import Any

from critic_r1_verl.grading import is_right
from critic_r1_verl.records import Choice
from critic_r1_verl.verdict import Status, normalise, parse_answer, parse_verdict, with_thought_opened


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    accuracy_weight: float = 0.9,
    format_weight: float = 0.1,
    thought_opened: bool = False,
    **_: Any,
) -> dict[str, float]:
    r"""Score in [0, 1] for weights that add up to 1: accuracy_weight * acc + format_weight * format.

    extra_info["style"] says what the box should contain. "verdict" (the default): the choice ground_truth ("1", "2" or "tie"). "math": an
    answer that equals ground_truth (grading.is_right). acc, format and parsed (a choice or an answer was read) are 0.0 or 1.0.
    thought_opened: the chat template opens the think block, so that the response begins inside it.
    A response or ground_truth that is not a string, or an unknown style, scores 0; rows.check_row finds such rows before training.

    >>> compute_score("demo", "<think>Response 2 misreads the sign.</think> \\boxed{1}", "1")
    {'score': 1.0, 'acc': 1.0, 'format': 1.0, 'parsed': 1.0, 'first': 1.0, 'tie': 0.0}
    """
    if thought_opened and isinstance(solution_str, str):
        solution_str = with_thought_opened(solution_str)
    style = extra_info.get("style", "verdict") if isinstance(extra_info, dict) else "verdict"
    correct, well_formed, status, choice = _grade(solution_str, ground_truth, style)
    acc, form = float(correct), float(well_formed)
    return {
        "score": accuracy_weight * acc + format_weight * form,
        "acc": acc,
        "format": form,
        "parsed": float(status == "parsed"),
        "first": float(choice == "1"),
        "tie": float(choice == "tie"),
    }


def _grade(text: Any, ground_truth: Any, style: Any) -> tuple[bool, bool, Status, Choice | None]:
    """Whether the response is correct, whether it has the required format, the status of parsing it, and the choice of a verdict."""
    if not isinstance(text, str) or not isinstance(ground_truth, str):
        return False, False, "missing", None
    if style == "verdict":
        verdict = parse_verdict(text)
        return verdict.choice == ground_truth, verdict.format, verdict.status, verdict.choice
    if style == "math":
        answer = parse_answer(text)
        return answer.text is not None and is_right(answer.text, normalise(ground_truth)), answer.format, answer.status, None
    return False, False, "missing", None
