# SPDX-License-Identifier: Apache-2.0
"""The lines of a run's files: Judgement, Answer, Match and Selection, with the one reader and the one writer of each.

A run folder holds judgements.jsonl, answers.jsonl, matches.jsonl and selections.jsonl, one JSON object a line. Every number that is
reported can be computed from them again, together with records.jsonl.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

from critic_r1_verl.records import ORDERS, Choice, Order
from critic_r1_verl.verdict import Status

Key = tuple[Any, ...]

CHOICES = get_args(Choice)
STATUSES = get_args(Status)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What the model said about one pair in one order. choice and preferred are in the shown frame of `order`.

    choice is None exactly if status is not "parsed". Token counts are None where the engine does not tell them.
    """

    FILE: ClassVar[str] = "judgements.jsonl"

    pair_id: str
    order: Order
    repeat: int
    choice: Choice | None
    status: Status
    correct: bool
    preferred: Choice
    text: str
    prompt_tokens: int | None
    completion_tokens: int | None
    model: str
    template_sha: str

    def __post_init__(self) -> None:
        _check_types(self)
        _check_one_of(self, "order", ORDERS)
        _check_one_of(self, "preferred", CHOICES)
        _check_choice(self)
        if self.correct != (self.choice == self.preferred):
            raise ValueError(f"key 'correct': {self.correct} does not follow from choice {self.choice!r} and preferred {self.preferred!r}")

    @property
    def key(self) -> Key:
        return self.pair_id, self.order, self.repeat


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One answer to a question. kind is "greedy" or "sample"; answer is the normalised content of the box, None if none was parsed."""

    FILE: ClassVar[str] = "answers.jsonl"

    question_id: str
    kind: str
    sample: int
    answer: str | None
    status: Status
    correct: bool
    text: str
    prompt_tokens: int | None
    completion_tokens: int | None
    model: str
    template_sha: str

    def __post_init__(self) -> None:
        _check_types(self)
        _check_one_of(self, "kind", ("greedy", "sample"))
        _check_one_of(self, "status", STATUSES)
        if (self.answer is None) != (self.status != "parsed"):
            raise ValueError(f"key 'status': {self.status!r} does not go with the answer {self.answer!r:.80}")
        if self.correct and self.answer is None:
            raise ValueError("key 'correct': true although there is no answer")

    @property
    def key(self) -> Key:
        return self.question_id, self.kind, self.sample


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """A judgement of two sampled answers to one question, in one order: first and second are their sample indices.

    choice is in the shown frame: in order "12" the first answer stands first, in "21" the second.
    """

    FILE: ClassVar[str] = "matches.jsonl"

    question_id: str
    first: int
    second: int
    order: Order
    choice: Choice | None
    status: Status
    text: str
    prompt_tokens: int | None
    completion_tokens: int | None
    model: str
    template_sha: str

    def __post_init__(self) -> None:
        _check_types(self)
        _check_one_of(self, "order", ORDERS)
        _check_choice(self)

    @property
    def key(self) -> Key:
        return self.question_id, self.first, self.second, self.order


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The answer that a method picks among the samples of a question; sample is its index.

    correct is in [0, 1]: where a method ties, the expectation of a fair draw. matches counts the pairs of answers that were judged,
    undecided those of them on whose winner the two orders did not agree.
    """

    FILE: ClassVar[str] = "selections.jsonl"

    question_id: str
    method: str
    sample: int
    answer: str | None
    correct: float
    matches: int
    undecided: int

    def __post_init__(self) -> None:
        _check_types(self)
        if not 0 <= self.correct <= 1:
            raise ValueError(f"key 'correct': {self.correct} is outside [0, 1]")

    @property
    def key(self) -> Key:
        return self.question_id, self.method


AnyLine = TypeVar("AnyLine", Judgement, Answer, Match, Selection)


def to_json(line: Any) -> dict[str, Any]:
    """The fields of a line by name, in their order."""
    return {field.name: getattr(line, field.name) for field in fields(line)}


def encode(line: Any) -> bytes:
    """A line as it stands in its file: ASCII JSON and a newline."""
    return (json.dumps(to_json(line), ensure_ascii=True) + "\n").encode("ascii")


def decode(text: bytes, cls: type[AnyLine], where: str) -> AnyLine:
    """The line of such a text. ValueError begins with `where` and names the key; a line that lacks its end was cut short by a kill."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        if not text.endswith(b"\n"):
            raise ValueError(f"{where}: the line is cut short; run the command that writes it again, it resumes there") from error
        raise ValueError(f"{where}: not JSON ({error!s:.200})") from error
    try:
        return cls(**_arguments(cls, data))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def read(path: Path, cls: type[AnyLine]) -> Iterator[AnyLine]:
    """The lines of a file, one at a time. ValueError names file, line and key, and a line whose key has been there before."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run the command that writes it, or correct the path")
    seen: dict[Key, int] = {}
    with path.open("rb") as stream:
        for number, text in enumerate(stream, 1):
            if not text.strip():
                continue
            line = decode(text, cls, f"{path}:{number}")
            if (first := seen.setdefault(line.key, number)) != number:
                raise ValueError(f"{path}:{number}: the same {cls.__name__.lower()} as in line {first} ({', '.join(map(str, line.key))})")
            yield line


def _arguments(cls: type, data: Any) -> dict[str, Any]:
    names = [field.name for field in fields(cls)]
    if not isinstance(data, Mapping):
        raise ValueError(f"{data!r:.80} is not a JSON object")
    if missing := [name for name in names if name not in data]:
        raise ValueError(f"key {missing[0]!r} is missing; a {cls.__name__.lower()} has {', '.join(names)}")
    if unknown := [name for name in data if name not in names]:
        raise ValueError(f"key {unknown[0]!r} is unknown; a {cls.__name__.lower()} has {', '.join(names)}")
    return dict(data)


_COUNTS = ("repeat", "sample", "first", "second", "matches", "undecided")
_TOKENS = ("prompt_tokens", "completion_tokens")


def _check_types(line: Any) -> None:
    for field in fields(line):
        name, value = field.name, getattr(line, field.name)
        if name in _COUNTS or (name in _TOKENS and value is not None):
            if type(value) is not int or value < 0:
                raise ValueError(f"key {name!r}: {value!r:.80} is not a whole number of 0 or more")
        elif name == "correct":
            # A selection's is a share, and JSON may write 1.0 as 1.
            if type(value) is not bool and not (isinstance(line, Selection) and type(value) in (int, float)):
                raise ValueError(f"key 'correct': {value!r:.80} is not a truth value")
        elif not isinstance(value, str) and not (value is None and name in ("choice", "answer", *_TOKENS)):
            raise ValueError(f"key {name!r}: {value!r:.80} is not a text")


def _check_one_of(line: Any, name: str, allowed: tuple[str, ...]) -> None:
    if getattr(line, name) not in allowed:
        raise ValueError(f"key {name!r}: {getattr(line, name)!r:.80} is none of {', '.join(map(repr, allowed))}")


def _check_choice(line: Any) -> None:
    _check_one_of(line, "status", STATUSES)
    if line.choice is not None:
        _check_one_of(line, "choice", CHOICES)
    if (line.choice is None) != (line.status != "parsed"):
        raise ValueError(f"key 'status': {line.status!r} does not go with the choice {line.choice!r}")
