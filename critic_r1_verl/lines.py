# SPDX-License-Identifier: Apache-2.0
"""The lines of the files in a run folder: Judgement, Answer, Match and Selection, and how they are read and written.

A run folder holds judgements.jsonl, answers.jsonl, matches.jsonl and selections.jsonl, with one JSON object per line. All reported numbers
are computed from these files and records.jsonl.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args

from critic_r1_verl.records import CHOICES, ORDERS, Choice, Order, check_keys
from critic_r1_verl.verdict import Status

Key = tuple[Any, ...]

Kind = Literal["pair", "score", "choice", "revision"]
"""What a judge is asked about sampled answers (select/calls.py)."""

KINDS = get_args(Kind)
_NUM_SHOWN = {"pair": 2, "score": 1, "revision": 1}

End = Literal["complete", "cut_short", "refused", "tool_call", "empty"]
"""How a completion ended (engines/base.py)."""

ENDS = get_args(End)[1:]
STATUSES = (*get_args(Status), *ENDS)
"""What a text holds (verdict.py) or, if there is no verdict or answer because of how the completion ended, that."""


def status_of(parsed: str, end: str) -> str:
    """The status of a line. A refusal is no verdict or answer, whatever its text; a text that was cut short may hold one."""
    return end if end == "refused" or (end != "complete" and parsed != "parsed") else parsed


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """The model's judgement of one pair in one order. choice and preferred are in the shown frame of `order`.

    choice is None if and only if status is not "parsed". If status is "refused", text is what the server or the model said instead. model
    is the one that the reply names, or else the one that was asked. Token counts are None if the engine does not return them. As in the
    other classes of this module, ValueError names a malformed key.
    """

    FILE: ClassVar[str] = "judgements.jsonl"

    pair_id: str
    order: Order
    repeat: int
    choice: Choice | None
    status: str
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
            raise ValueError(f"key 'correct': {self.correct} does not match choice {self.choice!r} and preferred {self.preferred!r}")

    @property
    def key(self) -> Key:
        return self.pair_id, self.order, self.repeat


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One answer to a question. kind is "greedy" or "sample". answer is the normalised content of the box, None if none was parsed.

    correct is a share in [0, 1] where a benchmark gives parts of a point. image_tokens is the part of prompt_tokens that stands for images.
    """

    FILE: ClassVar[str] = "answers.jsonl"

    question_id: str
    kind: str
    sample: int
    answer: str | None
    status: str
    correct: bool | float
    text: str
    prompt_tokens: int | None
    completion_tokens: int | None
    model: str
    template_sha: str
    image_tokens: int | None = None

    def __post_init__(self) -> None:
        _check_types(self)
        _check_one_of(self, "kind", ("greedy", "sample"))
        _check_one_of(self, "status", STATUSES)
        if (self.answer is None) != (self.status != "parsed"):
            raise ValueError(f"key 'status': {self.status!r} contradicts the answer {self.answer!r:.80}")
        if not 0 <= self.correct <= 1:
            raise ValueError(f"key 'correct': {self.correct} is outside [0, 1]")
        if self.correct and self.answer is None:
            raise ValueError("key 'correct': true although there is no answer")

    @property
    def key(self) -> Key:
        return self.question_id, self.kind, self.sample


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """A verdict on sampled answers to one question. kind, shown and repeat as in select/calls.py; so shown is in the shown frame.

    choice is what the verdict says: "1", "2" or "tie" for a pair, "0" to "10" for a score, the place "1" to "n" for a choice, and the new
    answer for a revision; None if and only if status is not "parsed".
    """

    FILE: ClassVar[str] = "matches.jsonl"

    question_id: str
    kind: Kind
    shown: tuple[int, ...]
    repeat: int
    choice: str | None
    status: str
    text: str
    prompt_tokens: int | None
    image_tokens: int | None
    completion_tokens: int | None
    model: str
    template_sha: str

    def __post_init__(self) -> None:
        if isinstance(self.shown, list):
            object.__setattr__(self, "shown", tuple(self.shown))
        _check_types(self)
        _check_one_of(self, "kind", KINDS)
        _check_one_of(self, "status", STATUSES)
        allowed = {
            "pair": CHOICES,
            "score": tuple(map(str, range(11))),
            "choice": tuple(str(place + 1) for place in range(len(self.shown))),
        }.get(self.kind)
        if self.choice is not None and allowed:
            _check_one_of(self, "choice", allowed)
        if (self.choice is None) != (self.status != "parsed"):
            raise ValueError(f"key 'status': {self.status!r} contradicts the choice {self.choice!r:.80}")
        if len({*self.shown}) != len(self.shown) or len(self.shown) != _NUM_SHOWN.get(self.kind, max(2, len(self.shown))):
            raise ValueError(f"key 'shown': {list(self.shown)!r:.80} are not the answers of a {self.kind}")

    @property
    def key(self) -> Key:
        return self.question_id, self.kind, self.shown, self.repeat


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The answer that a method (select/methods.py) selects among the first `samples` samples of a question. sample is its index.

    correct is in [0, 1]: in a tie, the mean over the tied answers. A revised answer has the sample that it revises. calls is the number of
    verdicts that the method used, and undecided the number of its comparisons without a winner. answer_tokens are those of the samples,
    their prompt once; judge_tokens are those of the verdicts with their prompts; None if the engine does not return them.
    """

    FILE: ClassVar[str] = "selections.jsonl"

    question_id: str
    method: str
    samples: int
    sample: int
    answer: str | None
    correct: float
    calls: int
    comparisons: int
    undecided: int
    answer_tokens: int | None
    judge_tokens: int | None

    def __post_init__(self) -> None:
        _check_types(self)
        if not 0 <= self.correct <= 1:
            raise ValueError(f"key 'correct': {self.correct} is outside [0, 1]")

    @property
    def key(self) -> Key:
        return self.question_id, self.method, self.samples


AnyLine = TypeVar("AnyLine", Judgement, Answer, Match, Selection)


def encode(line: Any) -> bytes:
    """The bytes of a line in its file: ASCII JSON and a newline."""
    return json.dumps(asdict(line)).encode("ascii") + b"\n"


def decode(text: bytes, cls: type[AnyLine], where: str) -> AnyLine:
    """The line of such bytes. ValueError begins with `where` and names the key, or says that the line was cut short."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        if not text.endswith(b"\n"):
            raise ValueError(f"{where}: the line is cut short; run the command that writes this file again, and it will resume") from error
        raise ValueError(f"{where}: not JSON ({error!s:.200})") from error
    try:
        check_keys(cls, data)
        return cls(**data)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def read(path: Path, cls: type[AnyLine]) -> Iterator[AnyLine]:
    """Yield the lines of a file. ValueError names file, line and key, also of a line whose key an earlier line has."""
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


_COUNTS = ("repeat", "sample", "samples", "calls", "comparisons", "undecided")
_TOKENS = ("prompt_tokens", "image_tokens", "completion_tokens", "answer_tokens", "judge_tokens")


def _check_types(line: Any) -> None:
    for field in fields(line):
        name, value = field.name, getattr(line, field.name)
        if name in _COUNTS or (name in _TOKENS and value is not None):
            if type(value) is not int or value < 0:
                raise ValueError(f"key {name!r}: {value!r:.80} is not an integer of 0 or more")
        elif name == "shown":
            if not isinstance(value, tuple) or any(type(sample) is not int or sample < 0 for sample in value):
                raise ValueError(f"key 'shown': {value!r:.80} is not a list of integers of 0 or more")
        elif name == "correct":
            # In an Answer or a Selection it may be a number, and JSON may hold 1 for 1.0.
            if type(value) is not bool and not (isinstance(line, Answer | Selection) and type(value) in (int, float)):
                raise ValueError(f"key 'correct': {value!r:.80} is not true or false")
        elif not isinstance(value, str) and not (value is None and name in ("choice", "answer", *_TOKENS)):
            raise ValueError(f"key {name!r}: {value!r:.80} is not a string")


def _check_one_of(line: Any, name: str, allowed: tuple[str, ...]) -> None:
    if getattr(line, name) not in allowed:
        raise ValueError(f"key {name!r}: {getattr(line, name)!r:.80} is none of {', '.join(map(repr, allowed))}")


def _check_choice(line: Any) -> None:
    _check_one_of(line, "status", STATUSES)
    if line.choice is not None:
        _check_one_of(line, "choice", CHOICES)
    if (line.choice is None) != (line.status != "parsed"):
        raise ValueError(f"key 'status': {line.status!r} contradicts the choice {line.choice!r}")
