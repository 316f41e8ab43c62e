# SPDX-License-Identifier: Apache-2.0
"""Answers one chat request with the best of N answers: samples them, and selects one by a method of select/methods.py.

Whatever fails on the way, there is an answer as long as one candidate came. A verdict that fails counts as one without a winner. When the
time or the tokens of the request are used up, the votes decide, and the answer says so.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from critic_r1_verl.engines import replies
from critic_r1_verl.engines.base import Completion
from critic_r1_verl.gateway.errors import Failure, late
from critic_r1_verl.gateway.judging import Judging, Spent, Trust, Verdict, usage
from critic_r1_verl.gateway.request import Ask
from critic_r1_verl.gateway.settings import Settings
from critic_r1_verl.gateway.upstream import Upstream
from critic_r1_verl.select.calls import Call, Judge, Unanswered
from critic_r1_verl.select.candidates import Candidates, group_answers
from critic_r1_verl.select.methods import METHODS, Picks, majority
from critic_r1_verl.verdict import as_written, parse_answer

Result = TypeVar("Result")


async def finished(works: Sequence[Coroutine[Any, Any, Result]], deadline: float) -> list[Result | Failure]:
    """The results of works that run together until the deadline, on the clock of the event loop; a Failure for each that has none."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        outcomes: list[Result | Failure] = []
        for task in tasks:
            error = task.exception() if task.done() else late()
            if error is not None and not isinstance(error, Failure):
                raise error
            outcomes.append(error if error is not None else task.result())
        return outcomes
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """choice: as the upstream sent it, in this reply. text: with reasoning in <think> </think>."""

    choice: dict[str, Any]
    reply: dict[str, Any]
    completion: Completion
    text: str
    answer: str | None

    @property
    def is_usable(self) -> bool:
        """Whether it is an answer: no refusal, and no call of a tool that nobody offered."""
        return bool(self.completion.text) and self.completion.end in ("complete", "cut_short")


class BestOf:
    """One request that is being answered. deadline: on the clock of the event loop. spent: by part, also if answer() fails."""

    def __init__(self, upstream: Upstream, judging: Judging, trust: Trust, ask: Ask, settings: Settings, deadline: float) -> None:
        self._upstream, self._judging, self._ask, self._settings, self._deadline = upstream, judging, ask, settings, deadline
        self._trust, self._options = trust, trust.options
        self.spent = {"answering": Spent(), "judging": judging.spent}

    async def answer(self) -> dict[str, Any]:
        """The reply, with the selected choice alone. Failure if no candidate came."""
        wanted = self._wanted()
        choices, failures = await self._sampled(wanted)
        if not choices:
            raise failures[0]
        usable = [each for each in choices if each.is_usable]
        if not usable:
            return self._reply(choices[0].choice, choices[0].reply, {"samples": len(choices), "failed": len(failures), "sample": 0})
        answers, texts = [each.answer for each in usable], [each.text for each in usable]
        if len({each.answer or each.text for each in usable}) == 1:
            candidates = group_answers(answers, texts)
        else:
            # In a thread, because comparing different answers can take a while.
            candidates = await asyncio.to_thread(group_answers, answers, texts)
        verdicts: dict[Call, Verdict | None] = {}
        picks, stopped = await self._picked(candidates, usable, verdicts)
        self._trust.learn(verdicts)
        pick = picks[0]
        sample = pick if isinstance(pick, int) else pick.shown[0]
        revised = verdicts.get(pick) if isinstance(pick, Call) else None
        reply = revised.reply if revised else usable[sample].reply
        facts = {
            "samples": len(usable),
            "failed": wanted - len(usable),
            "sample": sample,
            "tied": len(picks),
            "distinct": len(candidates.groups),
            "verdicts_failed": sum(verdict is None for verdict in verdicts.values()),
            "weight": round(self._options.weight, 3),
            "stopped": stopped,
        }
        if self._ask.return_candidates:
            facts |= _shown(candidates, usable, verdicts)
        return self._reply(reply["choices"][0] if revised else usable[sample].choice, reply, facts)

    def _wanted(self) -> int:
        """How many candidates the budget of tokens allows, if each has the length that the request allows."""
        longest = self._ask.body.get("max_completion_tokens") or self._ask.body.get("max_tokens")
        if not self._settings.max_tokens_per_request or type(longest) is not int or longest < 1:
            return self._ask.best_of
        return max(1, min(self._ask.best_of, self._settings.max_tokens_per_request // longest))

    async def _sampled(self, wanted: int) -> tuple[list[_Candidate], list[Failure]]:
        """The candidates that came, and the failures. A server that ignores, refuses or fails `n` is asked for each one by itself."""
        hidden = ("stream", "stream_options", "n")
        body = {key: value for key, value in self._ask.body.items() if key not in hidden}
        if not body.get("temperature"):
            body["temperature"] = self._settings.temperature
        found: list[_Candidate] = []
        failures: list[Failure] = []
        if wanted == 1 or self._upstream.takes_n:
            [reply] = await finished([self._asked(body | ({"n": wanted} if wanted > 1 else {}))], self._deadline)
            if isinstance(reply, Failure) and wanted > 1 and reply.status >= 500:
                # The server may fail at so many at once only. Whether it answers at all, one more request says.
                [reply] = await finished([self._asked(body)], self._deadline)
            elif not isinstance(reply, Failure):
                # A refusal may come alone from a server that gives several answers.
                self._upstream.takes_n &= wanted == 1 or len(reply) > 1 or not reply[0].is_usable
            if isinstance(reply, Failure):
                return [], [reply]
            found += reply[:wanted]
        seed = body.get("seed")
        seeds = [{"seed": seed + sample} if type(seed) is int else {} for sample in range(len(found), wanted)]
        for outcome in await finished([self._asked(body | other) for other in seeds], self._deadline) if seeds else []:
            if isinstance(outcome, Failure):
                failures.append(outcome)
            else:
                found.append(outcome[0])
        return found, failures

    async def _asked(self, body: dict[str, Any]) -> list[_Candidate]:
        reply = await self._upstream.ask(body, ("n",))
        self.spent["answering"].add(reply)
        choices = reply["choices"]
        completions = replies.completions(reply, len(choices), self._upstream.shown_url)
        critic = self._judging.critic.pairwise
        texts = [as_written(completion.text, critic.think_tags, critic.thought_opened) for completion in completions]
        return [
            _Candidate(choice, reply, completion, text, parse_answer(text).text)
            for choice, completion, text in zip(choices, completions, texts, strict=True)
        ]

    async def _picked(
        self, candidates: Candidates, usable: Sequence[_Candidate], verdicts: dict[Call, Verdict | None]
    ) -> tuple[Picks, str | None]:
        """What the method selects, and why it was stopped before its end, if it was: "time" or "tokens". Adds to the verdicts."""
        while True:
            judge = Judge({call: verdict.choice if verdict else None for call, verdict in verdicts.items()})
            try:
                return METHODS[self._settings.method](candidates, judge, self._options), None
            except Unanswered as more:
                works = [(call.kind, [usable[sample].text for sample in call.shown], call.repeat) for call in more.calls]
                if not self._can_afford(works):
                    return majority(candidates, judge, self._options), "tokens"
                outcomes = await finished([self._judging.verdict(*work) for work in works], self._deadline)
                verdicts |= {
                    call: None if isinstance(outcome, Failure) else outcome for call, outcome in zip(more.calls, outcomes, strict=True)
                }
                if any(isinstance(outcome, Failure) and outcome.code == "timeout" for outcome in outcomes):
                    return majority(candidates, judge, self._options), "time"

    def _can_afford(self, works: Sequence[tuple[Any, list[str], int]]) -> bool:
        """Whether the budget allows these verdicts, even if each is as long as it may be. Without the server's counts, none."""
        if not self._settings.max_tokens_per_request:
            return True
        answering, judging = self.spent["answering"], self.spent["judging"].tokens
        if answering.tokens is None or answering.prompt_tokens is None or judging is None:
            return False
        each = [self._judging.most_tokens(kind, answers, answering.prompt_tokens // answering.calls) for kind, answers, _ in works]
        return answering.tokens + judging + sum(each) <= self._settings.max_tokens_per_request

    def _reply(self, choice: Mapping[str, Any], reply: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
        spent = {part: asdict(counts) for part, counts in self.spent.items()}
        summary = {"method": self._settings.method, "best_of": self._ask.best_of, **facts, "usage": spent}
        return {**reply, "choices": [{**choice, "index": 0}], "usage": usage(list(self.spent.values())), "critic_r1": summary}


def _shown(candidates: Candidates, usable: Sequence[_Candidate], verdicts: Mapping[Call, Verdict | None]) -> dict[str, Any]:
    """The candidates and verdicts for a client that asked for them. votes: how many candidates have an equal answer."""
    votes = [len(candidates.group_of(sample) or ()) for sample in range(len(usable))]
    return {
        "candidates": [{"text": each.text, "answer": each.answer, "votes": number} for each, number in zip(usable, votes, strict=True)],
        "verdicts": [
            asdict(call) | {name: getattr(verdict, name, None) for name in ("choice", "status", "text")}
            for call, verdict in verdicts.items()
        ],
    }
