# SPDX-License-Identifier: Apache-2.0
"""The layouts in which people keep pairs for other trainers, each recognised by its columns.

LAYOUTS is one table: a name, the columns that show the layout, and a function that reads a row. A layout whose columns are a part of
another's does not count beside it: prompt, chosen, rejected is not also chosen, rejected. A row of several layouts is read in each of them,
and refused unless all that can be read agree.

Sources: TRL (docs, dataset_formats), LLaMA-Factory (data/README.md), ms-swift (docs, Customization/Custom-dataset), LLaVA (conversations),
VL-RewardBench (its card).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

from critic_r1_verl.records import Choice
from data_prep import turns, vocabulary
from data_prep.corpora.critic_verdict import verdict
from data_prep.corpora.row_images import images
from data_prep.corpus import IMAGE, SchemaError, Skip
from data_prep.turns import Turn

Row = Mapping[str, Any]

LABELS = ("preferred", "preference", "label", "winner", "better", "chosen", "choice")
QUESTIONS = {
    "question": "plain",
    "prompt": "TRL",
    "query": "ms-swift, query",
    "instruction": "LLaMA-Factory, alpaca",
    "messages": "LLaMA-Factory, openai",
    "conversations": "LLaMA-Factory, sharegpt",
}
"""The columns of questions, and who calls them so."""
CHOSEN, SWIFT = ("chosen", "rejected"), ("response", "rejected_response")
MESSAGES, CONVERSATIONS = ("messages", "rejected_messages"), ("conversations", "rejected_conversations")
ARENA = ("conversation_a", "conversation_b")
DIALOGUES = {"messages", "conversations", *MESSAGES, *CONVERSATIONS, *ARENA}
"""Columns that hold dialogues, never texts."""
SIDES: tuple[Choice, Choice] = ("1", "2")
RESPONSES = tuple((f"{stem}_{one}", f"{stem}_{two}") for stem in ("response", "answer", "output") for one, two in ("12", "ab"))


@dataclass(frozen=True, slots=True)
class Read:
    """A row as it is understood: the turns before the responses, the responses, the label, and the images of the columns and turns."""

    asked: tuple[Turn, ...]
    first: str
    second: str
    preferred: Choice
    images: tuple[Any, ...]

    def question(self) -> str:
        return turns.fold(self.asked, len(self.images))


class NoPair(Exception):
    """A row that cannot be used, and why."""

    def __init__(self, reason: Skip) -> None:
        super().__init__(reason.reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Layout:
    """One layout. columns: those that show it. read: from a row to its meaning, or NoPair. label: the column of labels."""

    name: str
    columns: frozenset[str]
    read: Callable[[Row], Read]
    label: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(sorted(self.columns))})"


@lru_cache(maxsize=64)
def recognise(columns: frozenset[str]) -> tuple[Layout, ...]:
    """The layouts that these columns show, none of them a part of another. SchemaError if there is none."""
    found = [layout for layout in LAYOUTS if layout.columns <= columns]
    if not found:
        raise SchemaError(
            f"found the keys {sorted(columns)}, which are no known layout of pairs, such as question, chosen, rejected; or question, "
            "response_1, response_2, preferred; or messages, rejected_response (docs/data.md lists all): use --column OURS:THEIRS"
        )
    return tuple(layout for layout in found if not any(layout.columns < other.columns for other in found))


def read(row: Row) -> tuple[Read, Layout]:
    """What a row means, and its layout. NoPair if it cannot be used; SchemaError for no known layout, or for several that disagree."""
    found: list[tuple[Read, Layout]] = []
    problem = None
    for layout in recognise(frozenset(row)):
        try:
            found.append((layout.read(row), layout))
        except NoPair as error:
            problem = problem or error
    # Another column does not take the place of a label that was not read.
    if problem and (not found or problem.reason.spelling):
        raise problem
    first, layout = found[0]
    if any((one.question(), _pair(one)) != (first.question(), _pair(first)) for one, _ in found[1:]):
        candidates = "; or ".join(str(layout) for _, layout in found)
        what = f"found the keys {sorted(row)}, which can be read as {candidates}, and these differ"
        raise SchemaError(f"{what}; leave out the columns that are not meant")
    return first, layout


def _pair(one: Read) -> tuple[str, str, str]:
    return one.first, one.second, one.preferred


def choice(row: Row, column: str, names: tuple[str, str]) -> Choice:
    """The meaning of the label in a column: a number, word or letter, or the name or the text of one of the two columns in names.

    A guess is not made. NoPair for a row without a label, or with one that is not read; SchemaError for 0, true and false, since 1 then
    means something else than it says, and for the text of one response that says the other.
    """
    value = row.get(column)
    if value is None or value == "" or value != value:
        raise NoPair(Skip("no label"))
    word = vocabulary.spelling(value) if isinstance(value, str | int | float) else ""
    repeated = [choice for name, choice in zip(names, SIDES, strict=True) if isinstance(value, str) and row.get(name) == value]
    if word in ("0", "true", "false"):
        what = f"key {column!r}: found {value!r:.20}, and so 1 may not mean the first response"
        raise SchemaError(f"{what}; say what each means, such as --answer 0=1 --answer 1=2")
    found = SIDES[names.index(word)] if word in names else verdict(word.removeprefix("model_"), lettered=True)
    if found and len(repeated) == 1 and repeated != [found]:
        what = f"key {column!r}: found {value!r:.80}, which is also the text of the other response"
        raise SchemaError(f"{what}; write {names[0]} or {names[1]} instead")
    if found or len(repeated) == 1:
        return found or repeated[0]
    raise NoPair(vocabulary.unread(value))


def _turns(row: Row, column: str, speaker: str) -> list[Turn]:
    """The turns in a column; a text is one turn of this speaker."""
    found = turns.read(row.get(column), speaker)
    if found == turns.NO_DIALOGUE and column not in DIALOGUES:
        found = Skip(f"{'question' if speaker == 'User' else 'response'} is not a text")
    if isinstance(found, Skip):
        raise NoPair(found)
    return found


def _parted(first: list[Turn], second: list[Turn]) -> tuple[list[Turn], list[Turn], list[Turn]]:
    """The turns that two dialogues share, up to a turn of the user, and what each says after them."""
    if first[0].speaker == "Assistant":
        raise NoPair(Skip("no question"))
    shared = 0
    while shared < min(len(first), len(second)) and first[shared] == second[shared]:
        shared += 1
    while shared and first[shared - 1].speaker != "User":
        shared -= 1
    if not shared:
        raise NoPair(Skip("the two dialogues ask different things"))
    return first[:shared], first[shared:], second[shared:]


def _read(row: Row, asked: list[Turn], first: list[Turn], second: list[Turn], preferred: Choice) -> Read:
    """The last step of all layouts."""
    if not asked or asked[-1].speaker != "User":
        raise NoPair(Skip("dialogue does not end with the user"))
    if not first or not second or {turn.speaker for response in (first, second) for turn in (response[0], response[-1])} != {"Assistant"}:
        raise NoPair(Skip("dialogue does not end with the model"))
    if any(turn.images for turn in (*first, *second)):
        raise NoPair(Skip("a response holds an image"))
    system = row.get("system")
    if isinstance(system, str) and system.strip() and asked[0].speaker != "System":
        # ms-swift and LLaMA-Factory may keep the system prompt in a column of its own.
        asked = [Turn("System", system), *asked]
    found = images(row, [image for turn in asked for image in turn.images], TEXTS)
    if isinstance(found, Skip):
        raise NoPair(found)
    if sum(turn.text.count(IMAGE) for turn in asked) > len(found):
        raise NoPair(Skip("more placeholders than images"))
    return Read(tuple(asked), turns.fold(first), turns.fold(second), preferred, found)


def _asked(row: Row, question: str, names: tuple[str, str], label: str = "") -> Read:
    """A question, then two responses; or two whole dialogues, of which the question is a part."""
    first, second = (_turns(row, name, "Assistant") for name in names)
    asked, more = _turns(row, question, "User"), row.get("input")
    if question == "instruction" and isinstance(more, str) and more.strip():
        asked[-1] = replace(asked[-1], text=f"{asked[-1].text}\n{more}")
    if names == CHOSEN and row.get("preferred") and choice(row, "preferred", names) != "1":
        raise SchemaError(f"key 'preferred': found {row['preferred']!r:.80} beside the columns chosen and rejected; remove one of the two")
    preferred = choice(row, label, names) if label else "1"
    if first[0].speaker != "Assistant":
        whole, first, second = _parted(first, second)
        # The question is then said again: the first or the last turns, maybe without the images, maybe with the answer.
        texts, said = ([turn.text.replace(IMAGE, "").strip() for turn in part] for part in (whole, asked))
        ends = [said, said[:-1]] if asked[-1].speaker == "Assistant" else [said]
        if not any(end and end in (texts[: len(end)], texts[-len(end) :]) for end in ends):
            raise NoPair(Skip("question and dialogues ask different things"))
        asked = whole
    elif asked[-1].speaker == "Assistant" and asked[-1].text in (first[0].text, second[0].text):
        asked = asked[:-1]
    return _read(row, asked, first, second, preferred)


def _dialogues(row: Row, names: tuple[str, str], label: str = "") -> Read:
    """Two dialogues that begin in the same way."""
    first, second = (_turns(row, name, "Assistant") for name in names)
    preferred = choice(row, label, names) if label else "1"
    return _read(row, *_parted(first, second), preferred)


def _rejected_response(row: Row) -> Read:
    """A dialogue that ends with the better response, and the worse one."""
    better, worse = _turns(row, "messages", "User"), _turns(row, "rejected_response", "Assistant")
    last = max((place for place, turn in enumerate(better) if turn.speaker == "User"), default=-1) + 1
    return _read(row, better[:last], better[last:], worse, "1")


def _ranked(row: Row) -> Read:
    """VL-RewardBench: two responses and their ranks, of which 0 is the best."""
    responses, ranks = row.get("response"), row.get("human_ranking")
    if not isinstance(responses, list) or len(responses) != 2 or not isinstance(ranks, list) or len(ranks) != 2:
        raise NoPair(Skip("not two responses with ranks"))
    if any(type(rank) is not int for rank in ranks) or ranks[0] == ranks[1]:
        raise NoPair(Skip("no label"))
    named = {**row, "response_1": responses[0], "response_2": responses[1], "preferred": 1 + (ranks[0] > ranks[1])}
    return _asked(named, "query", RESPONSES[0], "preferred")


def _layout(name: str, columns: Sequence[str], read: Callable[..., Read], **how: Any) -> Layout:
    return Layout(name, frozenset(columns), partial(read, **how), how.get("label", ""))


LAYOUTS = (
    *(_layout(name, (asked, *CHOSEN), _asked, question=asked, names=CHOSEN) for asked, name in QUESTIONS.items()),
    *(
        _layout(f"{name}, labelled", (asked, *names, label), _asked, question=asked, names=names, label=label)
        for asked, name in QUESTIONS.items()
        for names in RESPONSES
        for label in LABELS
    ),
    _layout("TRL, implicit prompt", CHOSEN, _dialogues, names=CHOSEN),
    _layout("ms-swift", ("messages", "rejected_response"), _rejected_response),
    _layout("ms-swift, messages", MESSAGES, _dialogues, names=MESSAGES),
    _layout("ms-swift, query", ("query", *SWIFT), _asked, question="query", names=SWIFT),
    _layout("LLaVA, two dialogues", CONVERSATIONS, _dialogues, names=CONVERSATIONS),
    *(_layout("arena", (*ARENA, label), _dialogues, names=ARENA, label=label) for label in LABELS),
    _layout("VL-RewardBench", ("query", "response", "human_ranking"), _ranked),
)
TEXTS = frozenset().union(*(layout.columns for layout in LAYOUTS))
