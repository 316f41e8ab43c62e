# SPDX-License-Identifier: Apache-2.0
"""Asks the critic about the responses of a step, as critic_r1.judge of the recipe says."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, get_args

from critic_r1_verl import data_folder, lines, prompts
from critic_r1_verl.critic_reward import matches
from critic_r1_verl.critic_reward.matches import Asked, Match, Response
from critic_r1_verl.critics.answers import AnswerCritic
from critic_r1_verl.critics.pairwise import PairwiseCritic
from critic_r1_verl.engines.base import Engine, Request, Sampling
from critic_r1_verl.engines.coin import CoinEngine
from critic_r1_verl.engines.openai_client import OpenAIEngine
from critic_r1_verl.records import QuestionRecord, RecordFile
from critic_r1_verl.verdict import without_tags

Verdicts = Literal["critic", "coin", "truth"]
"""Who judges: the critic or, as a control, a coin; or nobody, and the answers of the data are paid for, which is the upper bound."""

NO_CRITIC = (
    "no critic: give the root of an OpenAI-compatible API by critic_r1.judge.base_url=URL, or let verl serve one by "
    "reward.reward_model.enable=true reward.reward_model.model_path=FOLDER"
)
NO_IDS = (
    "verl gives a critic on the policy's own devices neither the ids nor the answers of the rows, so that nothing could be validated: "
    "it needs reward.reward_model.enable_resource_pool=true"
)

MAX_REMEMBERED = 200_000
"""So many verdicts, the latest ones, are not asked for again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """critic_r1.judge. ValueError names a key with a value that it cannot have.

    base_url: the root of an OpenAI-compatible API, "" for the server that verl starts (reward.reward_model). model: the critic's name
    there, "" for the only one. opponents: each of the different responses to a question meets so many of those after it, in a ring.
    reference: an answers.jsonl of `critic-r1 eval`, whose first answer to its question each response meets instead; "" for none. template:
    the prompt; "" for that of the pairs of the data. thought_opened: of the critic, as critic_r1.thought_opened. max_unparsed: the share of
    the verdicts of a step that may hold no choice. seed: of sampled verdicts, and of the coin.
    """

    verdicts: Verdicts
    base_url: str
    model: str
    opponents: int
    reference: str
    template: str
    thought_opened: bool
    max_tokens: int
    temperature: float
    max_unparsed: float
    max_concurrency: int
    max_retries: int
    timeout_seconds: float
    seed: int

    def __post_init__(self) -> None:
        if self.verdicts not in get_args(Verdicts):
            raise ValueError(f"critic_r1.judge.verdicts={self.verdicts}: give one of {', '.join(get_args(Verdicts))}")
        for key in ("opponents", "max_tokens"):
            if type(value := getattr(self, key)) is not int or value < 1:
                raise ValueError(f"critic_r1.judge.{key}={value}: give a whole number above 0")
        if not 0 <= self.max_unparsed <= 1:
            raise ValueError(f"critic_r1.judge.max_unparsed={self.max_unparsed}: give a share from 0 to 1")


def read(judge: Mapping[str, Any]) -> Settings:
    """The Settings of a critic_r1.judge, as a plain or a composed one. ValueError as there, or for a missing or unknown key."""
    try:
        return Settings(**judge)
    except TypeError as error:
        raise ValueError(f"critic_r1.judge: {error}") from error


def engine(settings: Settings, served_at: str) -> Engine:
    """The engine of the verdicts. served_at: the root of the API of verl's server, "" without one.

    ValueError without any server; ValueError and ConnectionError as OpenAIEngine.
    """
    if settings.verdicts == "coin":
        return CoinEngine(settings.seed)
    if not (settings.base_url or served_at):
        raise ValueError(NO_CRITIC)
    return OpenAIEngine(
        settings.base_url or served_at,
        settings.model,
        max_concurrency=settings.max_concurrency,
        max_retries=settings.max_retries,
        timeout_seconds=settings.timeout_seconds,
    )


@dataclass(frozen=True, slots=True)
class CriticReward:
    """A critic, the questions that it is asked about, each with the folder of its images, and the verdicts that it has given."""

    settings: Settings
    engine: Engine
    critic: AnswerCritic
    questions: Mapping[str, tuple[QuestionRecord, Path]]
    references: Mapping[str, str]
    remembered: dict[bytes, str | None] = field(default_factory=dict)

    def reward(self, responses: Sequence[Response]) -> tuple[list[float], dict[str, float]]:
        """The win of each of one or more responses, in [0, 1], and the metrics of the step, with the mean win as judge/win.

        ConnectionError for a critic that cannot be reached. ValueError for one that refuses to work or gives too few verdicts, for a
        question that is not among the records and, if there are references, for one that has none.
        """
        texts: dict[str, list[str]] = defaultdict(list)
        for response in responses:
            if response.readable:
                texts[response.question_id].append(response.text)
        asked = [Asked(question_id, *pair) for question_id, of_question in texts.items() for pair in self._pairs(question_id, of_question)]
        choices = self._choices([order for each in asked for order in (each, Asked(each.question_id, each.second, each.first))])
        played = [Match(*each) for each in zip(asked, choices[::2], choices[1::2], strict=True)]
        won = matches.wins(played)
        paid = [won.get((each.question_id, each.text), 0.5) if each.readable else 0.0 for each in responses]
        return paid, matches.metrics(responses, played) | {"judge/win": fmean(paid)}

    def _pairs(self, question_id: str, texts: Sequence[str]) -> list[tuple[str, str]]:
        if not self.settings.reference:
            return matches.pairs(texts, self.settings.opponents)
        if (reference := self.references.get(question_id)) is None:
            raise ValueError(f"{self.settings.reference}: no answer to the question {question_id}; critic_r1.judge.reference needs all")
        return [(text, reference) for text in dict.fromkeys(texts) if text != reference]

    def _choices(self, asked: Sequence[Asked]) -> list[str | None]:
        """The choice of each verdict in the shown frame, None if it holds none."""
        new = [each for each in dict.fromkeys(asked) if _key(each) not in self.remembered]
        unread = ""
        for place, (completion,) in self.engine.generate(map(self._request, new)):
            _, choice, _ = self.critic.read("pair", completion, 2)
            self.remembered[_key(new[place])] = choice
            unread = unread if choice else completion.text
        choices = [self.remembered[_key(each)] for each in asked]
        num_unparsed = choices.count(None)
        if num_unparsed > self.settings.max_unparsed * len(choices):
            raise ValueError(
                f"the critic {self.engine.name} gave no verdict in {num_unparsed} of {len(choices)} cases, more than "
                f"critic_r1.judge.max_unparsed={self.settings.max_unparsed:g}; look at critic_r1.judge.template and max_tokens; "
                f"it said, for example: {unread[-200:]!r}"
            )
        while len(self.remembered) > MAX_REMEMBERED:
            del self.remembered[next(iter(self.remembered))]
        return choices

    def _request(self, asked: Asked) -> Request:
        if asked.question_id not in self.questions:
            raise ValueError(
                f"question {asked.question_id} is not in {data_folder.RECORDS} beside the training data; `make prep` builds both"
            )
        question, folder = self.questions[asked.question_id]
        return self.critic.request("pair", question, (asked.first, asked.second), folder)


def load(settings: Settings, engine: Engine, train_files: str | Iterable[str]) -> CriticReward:
    """The CriticReward of the questions in the records beside data.train_files.

    ValueError if the records, the manifest, the template or the reference cannot be read.
    """
    files = [train_files] if isinstance(train_files, str) else train_files
    folders = list(dict.fromkeys(Path(file).parent for file in files))
    records = ((record, folder) for folder in folders for record in RecordFile(folder / data_folder.RECORDS, QuestionRecord))
    questions = {record.question_id: (record, folder) for record, folder in records}
    template = prompts.load(settings.template) if settings.template else data_folder.templates(folders[0])["pair"]
    sampling = Sampling(settings.max_tokens, settings.temperature, seed=settings.seed)
    references: dict[str, str] = {}
    for line in lines.read(Path(settings.reference), lines.Answer) if settings.reference else ():
        references.setdefault(line.question_id, without_tags(line.text))
    critic = AnswerCritic(PairwiseCritic(template, sampling, thought_opened=settings.thought_opened))
    return CriticReward(settings, engine, critic, questions, references)


def _key(asked: Asked) -> bytes:
    return hashlib.sha256(json.dumps(asked).encode()).digest()
