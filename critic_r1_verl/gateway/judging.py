# SPDX-License-Identifier: Apache-2.0
"""Asks the judge about the answers to one question, and counts what requests have spent."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from critic_r1_verl.critics.answers import AnswerCritic
from critic_r1_verl.engines import replies
from critic_r1_verl.gateway.upstream import Upstream
from critic_r1_verl.lines import Kind
from critic_r1_verl.records import ORDERS, to_record
from critic_r1_verl.select.calls import Call
from critic_r1_verl.select.methods import Options
from critic_r1_verl.select.skill import Choices, weights_of
from critic_r1_verl.select.usage import added

_REMEMBERED = 1000
_SAMPLING = ("temperature", "top_p", "seed")


@dataclass(slots=True)
class Spent:
    """calls: the replies that came. prompt_tokens, completion_tokens: None if a reply did not say."""

    calls: int = 0
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0

    def add(self, reply: dict[str, Any]) -> None:
        said = reply.get("usage")
        usage = said if isinstance(said, dict) else {}
        counts = (usage.get(name) for name in ("prompt_tokens", "completion_tokens"))
        prompt, completion = (count if type(count) is int and count >= 0 else None for count in counts)
        self.calls += 1
        self.prompt_tokens, self.completion_tokens = added([self.prompt_tokens, prompt]), added([self.completion_tokens, completion])

    @property
    def tokens(self) -> int | None:
        return added([self.prompt_tokens, self.completion_tokens])


def usage(parts: Sequence[Spent]) -> dict[str, int] | None:
    """The usage of a response: the sums over its parts. None if one of them is not known."""
    prompt, completion = (added(getattr(part, name) for part in parts) for name in ("prompt_tokens", "completion_tokens"))
    if prompt is None or completion is None:
        return None
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


@dataclass(frozen=True, slots=True)
class Verdict:
    """choice: what it says, in the order shown, None if nothing. status: as in lines.py. reply: of the judge, with the text in a choice."""

    choice: str | None
    status: str
    text: str
    reply: dict[str, Any]


class Trust:
    """How much the verdicts count against votes: as much as given or, if that is None, as the judge's agreement with itself allows.

    The agreement is that of the last matches, one of each request (select/skill.py).
    """

    def __init__(self, weight: float | None) -> None:
        proven, expected = weights_of(()) if weight is None else (weight, weight)
        self.options = Options(weight=proven, reach=expected)
        self._learns = weight is None
        self._matches: deque[Choices] = deque(maxlen=_REMEMBERED)

    def learn(self, verdicts: Mapping[Call, Verdict | None]) -> None:
        """Take the first match of a request into account, if it was judged in both orders."""
        (one, first), (other, second) = [*verdicts.items(), (None, None), (None, None)][:2]
        if self._learns and one and other and one.kind == "pair" and one.shown == other.shown[::-1] and first and second:
            self._matches.append((first.choice, second.choice))
            proven, expected = weights_of(self._matches)
            self.options = Options(weight=proven, reach=expected)


@dataclass(frozen=True, slots=True)
class Judging:
    """One question for the judge. images: content parts. model: "" for the one that the server serves."""

    upstream: Upstream
    critic: AnswerCritic
    model: str
    question: str
    images: Sequence[dict[str, Any]]
    spent: Spent = field(default_factory=Spent)

    async def verdict(self, kind: Kind, answers: Sequence[str], repeat: int = 0) -> Verdict:
        """The verdict on these answers, in the order shown. Failure if the server sends none."""
        sampling = self.critic.pairwise.sampling
        settings = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed + repeat}
        body = {"messages": [{"role": "user", "content": self._content(kind, answers)}], "max_tokens": sampling.max_tokens, **settings}
        reply = await self.upstream.ask(body | ({"model": self.model} if self.model else {}), _SAMPLING)
        self.spent.add(reply)
        completion = replies.completions(reply, len(reply["choices"]), self.upstream.shown_url)[0]
        text, choice, status = self.critic.read(kind, completion, len(answers))
        return Verdict(choice, status, text, reply)

    def most_tokens(self, kind: Kind, answers: Sequence[str], prompt_tokens: int) -> int:
        """A bound of what a verdict costs, if the question's prompt has so many tokens and a token is two bytes or more elsewhere."""
        texts = (self.critic.template(kind).text, *answers)
        return prompt_tokens + sum(len(text.encode("utf-8", "replace")) for text in texts) // 2 + self.critic.pairwise.sampling.max_tokens

    def _content(self, kind: Kind, answers: Sequence[str]) -> list[dict[str, Any]]:
        images = self.images if self.critic.with_image else ()
        first, *texts = self.critic.prompt(kind, self.question, len(images), answers).split("<image>")
        assert len(texts) == len(images)
        content: list[dict[str, Any]] = [{"type": "text", "text": first}] if first else []
        for image, text in zip(images, texts, strict=True):
            content += [image, {"type": "text", "text": text}]
        return content


def in_both_orders(verdicts: Sequence[Verdict], critic: AnswerCritic, model: str) -> dict[str, Any]:
    """The result of judging a pair in both orders, in the form of `critic-r1 judge --json` (evaluate.judge_one)."""
    first, second = (to_record(order, verdict.choice) for order, verdict in zip(ORDERS, verdicts, strict=True))
    judgements = []
    for order, verdict in zip(ORDERS, verdicts, strict=True):
        spent = Spent()
        spent.add(verdict.reply)
        counts = {key: value for key, value in asdict(spent).items() if key != "calls"}
        name = verdict.reply.get("model") if isinstance(verdict.reply.get("model"), str) else model
        found = {"order": order, "choice": verdict.choice, "status": verdict.status, "text": verdict.text}
        judgements.append(found | counts | {"model": name, "template_sha": critic.template("pair").sha})
    return {"preferred": first if first == second else None, "judgements": judgements}
