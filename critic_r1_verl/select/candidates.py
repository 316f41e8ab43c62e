# SPDX-License-Identifier: Apache-2.0
"""The sampled answers of a question, with equal ones in one group."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from critic_r1_verl import grading
from critic_r1_verl.lines import Answer
from critic_r1_verl.select.usage import added
from critic_r1_verl.verdict import without_tags

Group = tuple[int, ...]
"""The sample indices of equal answers, in ascending order."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The answers of one question, from which a method selects; answers of one group are equal, so they are never compared.

    num_samples: N; the samples are 0 to N - 1. groups: in the order of their first sample. An answer whose box cannot be read is in no
    group, except if this is so for all N: then each different text is a group. right: the samples that are right, for `oracle` alone.
    prompt_tokens, sample_tokens: of the question, and of a sample in the mean; None if the engine does not return them.
    """

    num_samples: int
    groups: tuple[Group, ...]
    right: frozenset[int] = frozenset()
    prompt_tokens: int | None = None
    sample_tokens: float | None = None

    def first(self, num_samples: int) -> "Candidates":
        """The candidates if only so many samples had been drawn, or all if there are no more."""
        num_samples = min(num_samples, self.num_samples)
        groups = (tuple(sample for sample in group if sample < num_samples) for group in self.groups)
        kept = tuple(group for group in groups if group)
        # Without any readable answer among the first ones, each of these stands for itself.
        return replace(self, num_samples=num_samples, groups=kept or tuple((sample,) for sample in range(num_samples)))

    def group_of(self, sample: int) -> Group | None:
        """The group of a sample, None if it is in none."""
        return next((group for group in self.groups if sample in group), None)

    def largest(self) -> list[Group]:
        """The groups with the most votes: one or, in a tie, several."""
        most = max(map(len, self.groups))
        return [group for group in self.groups if len(group) == most]


def group_answers(contents: Sequence[str | None], texts: Sequence[str], right: Iterable[int] = ()) -> Candidates:
    """The candidates of N >= 1 answers. contents: what is in the box of each, None if that cannot be read. texts: the whole answers.

    Two answers are equal if each is right where the other is the truth, by the grader of the reward.
    """
    keys = contents if any(content is not None for content in contents) else [without_tags(text) for text in texts]
    groups: dict[str, list[int]] = {}
    found: dict[str, list[int]] = {}
    for sample, key in enumerate(keys):
        if key is None:
            continue
        if key not in found:
            equal = next((other for other in groups if _are_equal(key, other)), key)
            found[key] = groups.setdefault(equal, [])
        found[key].append(sample)
    return Candidates(len(contents), tuple(map(tuple, groups.values())), frozenset(right))


def by_question(answers: Iterable[Answer]) -> dict[str, list[Answer]]:
    """The sampled answers of each question, in the order of their index."""
    samples: dict[str, list[Answer]] = {}
    for answer in sorted((answer for answer in answers if answer.kind == "sample"), key=lambda answer: answer.key):
        samples.setdefault(answer.question_id, []).append(answer)
    return samples


def candidates_of(answers: Sequence[Answer]) -> Candidates:
    """The candidates of the sampled answers of one question, in the order of their index."""
    right = (answer.sample for answer in answers if answer.correct)
    found = group_answers([answer.answer for answer in answers], [answer.text for answer in answers], right)
    tokens = added(answer.completion_tokens for answer in answers)
    return replace(found, prompt_tokens=answers[0].prompt_tokens, sample_tokens=None if tokens is None else tokens / len(answers))


def _are_equal(one: str, other: str) -> bool:
    return grading.is_right(one, other) and grading.is_right(other, one)
