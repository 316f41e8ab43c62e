# SPDX-License-Identifier: Apache-2.0
"""The critic of sampled answers, which have no label: it compares two, scores one, chooses among several, or revises one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from critic_r1_verl import prompts
from critic_r1_verl.critics.pairwise import PairwiseCritic
from critic_r1_verl.engines.base import Completion, Request
from critic_r1_verl.lines import Kind, status_of
from critic_r1_verl.prompts import Template, escape
from critic_r1_verl.records import QuestionRecord
from critic_r1_verl.verdict import as_written, parse_answer, without_tags

_NUMBER = re.compile(r"(?:response )?\(?([0-9]{1,4})\)?(?:/10)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class AnswerCritic:
    """How sampled answers are judged. pairwise: the critic of pairs, whose sampling and think tags serve all kinds of verdicts.

    with_image: whether the judge is shown the images of the question.
    """

    pairwise: PairwiseCritic
    with_image: bool = True

    def template(self, kind: Kind) -> Template:
        """The prompt for this kind of verdict."""
        return self.pairwise.template if kind == "pair" else prompts.load(kind)

    def request(self, kind: Kind, question: QuestionRecord, answers: Sequence[str], root: Path, repeat: int = 0) -> Request:
        """The request for one verdict on these answers, in the order shown and with their reasoning. Image paths are relative to root."""
        images = question.images if self.with_image else ()
        text = self.prompt(kind, question.question, len(images), answers)
        sampling = replace(self.pairwise.sampling, seed=self.pairwise.sampling.seed + repeat)
        return Request(text, tuple(root / image.path for image in images), sampling, f"question {question.question_id}")

    def prompt(self, kind: Kind, question: str, num_images: int, answers: Sequence[str]) -> str:
        """The text of such a request, which begins with an `<image>` line per image."""
        shown = [escape(without_tags(answer)) for answer in answers]
        fields = {"question": escape(question)}
        if kind == "pair":
            fields["response_1"], fields["response_2"] = shown
        elif kind == "choice":
            fields["responses"] = "\n\n".join(
                f"[Response {place}]\n{answer}\n[End of response {place}]" for place, answer in enumerate(shown, 1)
            )
        else:
            (fields["response"],) = shown
        return "<image>\n" * num_images + self.template(kind).fill(**fields)

    def read(self, kind: Kind, completion: Completion, num_shown: int) -> tuple[str, str | None, str]:
        """The text with its reasoning in <think> </think>, the choice of a Match (lines.py), and its status."""
        if kind == "pair":
            return self.pairwise.read(completion)
        text = as_written(completion.text, self.pairwise.think_tags, self.pairwise.thought_opened)
        parsed = parse_answer(text)
        choice: str | None = parsed.text
        if choice is not None and kind != "revision":
            number = _NUMBER.fullmatch(choice)
            low, high = (0, 10) if kind == "score" else (1, num_shown)
            choice = str(int(number[1])) if number and low <= int(number[1]) <= high else None
        status = status_of(parsed.status if choice is not None or parsed.text is None else "missing", completion.end)
        return text, choice if status == "parsed" else None, status
