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


@dataclass(frozen=True, slots=True)
class Layout:
    """One layout. columns: those that show it. read: from a row to its meaning, or to a reason to skip it. label: the column of labels."""

    name: str
    columns: frozenset[str]
    read: Callable[[Row], Read | Skip]
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


def read(row: Row) -> tuple[Read | Skip, Layout]:
    """What a row means, and the layout that was read. SchemaError if the row has no known layout, or several that disagree."""
    layouts = recognise(frozenset(row))
    found = [(layout.read(row), layout) for layout in layouts]
    if len(found) == 1:
        return found[0]
    usable = [(one, layout) for one, layout in found if isinstance(one, Read)]
    if not usable:
        return found[0]
    if any(one.question() != usable[0][0].question() or _pair(one) != _pair(usable[0][0]) for one, _ in usable):
        candidates = "; or ".join(str(layout) for _, layout in usable)
        what = f"found the keys {sorted(row)}, which can be read as {candidates}, and these differ"
        raise SchemaError(f"{what}; leave out the columns that are not meant")
    return usable[0]


def _pair(one: Read) -> tuple[str, str, str]:
    return one.first, one.second, one.preferred


def choice(row: Row, column: str, names: tuple[str, str]) -> Choice | Skip:
    """The meaning of the label in a column: a number, word or letter, or a column's name of the two in names. A guess is not made.

    SchemaError for 0, true and false, since 1 then means something else than it says.
    """
    value = row.get(column)
    if value is None or value == "" or value != value:
        return Skip("no label")
    if not isinstance(value, str | int | float):
        return vocabulary.unread(value)
    word = vocabulary.spelling(value)
    if word in ("0", "true", "false"):
        what = f"key {column!r}: found {value!r:.20}, and so 1 may not mean the first response"
        raise SchemaError(f"{what}; say what each means, such as --answer 0=1 --answer 1=2")
    if word in names:
        return "1" if word == names[0] else "2"
    return verdict(word.removeprefix("model_"), lettered=True) or vocabulary.unread(value)


def _turns(row: Row, column: str, speaker: str) -> list[Turn] | Skip:
    """The turns in a column; a text is one turn of this speaker."""
    found = turns.read(row.get(column), speaker)
    if found == turns.NO_DIALOGUE and column not in DIALOGUES:
        return Skip(f"{'question' if speaker == 'User' else 'response'} is not a text")
    return found


def _question(row: Row, column: str) -> list[Turn] | Skip:
    """The turns in the column of the question. Alpaca's layout keeps a part of the question in the column input."""
    found, more = _turns(row, column, "User"), row.get("input")
    if column == "instruction" and isinstance(more, str) and more.strip() and not isinstance(found, Skip):
        found[-1] = replace(found[-1], text=f"{found[-1].text}\n{more}")
    return found


def _two(row: Row, names: tuple[str, str]) -> tuple[list[Turn], list[Turn]] | Skip:
    first, second = (_turns(row, name, "Assistant") for name in names)
    if isinstance(first, Skip) or isinstance(second, Skip):
        return first if isinstance(first, Skip) else second  # type: ignore[return-value]
    return first, second


def _parted(first: list[Turn], second: list[Turn]) -> tuple[list[Turn], list[Turn], list[Turn]] | Skip:
    """The turns that two dialogues share, up to a turn of the user, and what each says after them."""
    shared = 0
    while shared < min(len(first), len(second)) and first[shared] == second[shared]:
        shared += 1
    while shared and first[shared - 1].speaker != "User":
        shared -= 1
    if not shared:
        return Skip("the two dialogues ask different things")
    return first[:shared], first[shared:], second[shared:]


def _read(row: Row, asked: list[Turn], first: list[Turn], second: list[Turn], preferred: Choice) -> Read | Skip:
    """The last step of all layouts."""
    if not asked or asked[-1].speaker != "User":
        return Skip("dialogue does not end with the user")
    if not first or not second or {turn.speaker for response in (first, second) for turn in (response[0], response[-1])} != {"Assistant"}:
        return Skip("dialogue does not end with the model")
    if any(turn.images for turn in (*first, *second)):
        return Skip("a response holds an image")
    system = row.get("system")
    if isinstance(system, str) and system.strip() and asked[0].speaker != "System":
        # ms-swift and LLaMA-Factory may keep the system prompt in a column of its own.
        asked = [Turn("System", system), *asked]
    found = images(row, [image for turn in asked for image in turn.images], TEXTS)
    if isinstance(found, Skip):
        return found
    if sum(turn.text.count(IMAGE) for turn in asked) > len(found):
        return Skip("more placeholders than images")
    return Read(tuple(asked), turns.fold(first), turns.fold(second), preferred, found)


def _asked(row: Row, question: str, names: tuple[str, str], label: str = "") -> Read | Skip:
    """A question, then two responses; or two whole dialogues, of which the question is a part."""
    responses, asked = _two(row, names), _question(row, question)
    preferred = choice(row, label, names) if label else "1"
    for found in (responses, asked, preferred):
        if isinstance(found, Skip):
            return found
    assert not isinstance(responses, Skip) and not isinstance(asked, Skip) and not isinstance(preferred, Skip)
    if names == CHOSEN and choice(row, LABELS[0], names) not in ("1", Skip("no label")):
        raise SchemaError(f"key {LABELS[0]!r}: found {row[LABELS[0]]!r:.80} beside the columns chosen and rejected; remove one of the two")
    first, second = responses
    if first[0].speaker != "Assistant":
        parted = _parted(first, second)
        if isinstance(parted, Skip):
            return parted
        whole, first, second = parted
        # The question is then said again: the first or the last turns, maybe without the images, maybe with the answer.
        texts, said = ([turn.text.replace(IMAGE, "").strip() for turn in part] for part in (whole, asked))
        ends = [said, said[:-1]] if asked[-1].speaker == "Assistant" else [said]
        if not any(end and end in (texts[: len(end)], texts[-len(end) :]) for end in ends):
            return Skip("question and dialogues ask different things")
        asked = whole
    elif asked[-1].speaker == "Assistant" and asked[-1].text in (first[0].text, second[0].text):
        asked = asked[:-1]
    return _read(row, asked, first, second, preferred)


def _dialogues(row: Row, names: tuple[str, str], label: str = "") -> Read | Skip:
    """Two dialogues that begin in the same way."""
    both, preferred = _two(row, names), choice(row, label, names) if label else "1"
    if isinstance(both, Skip) or isinstance(preferred, Skip):
        return both if isinstance(both, Skip) else preferred  # type: ignore[return-value]
    parted = Skip("no question") if both[0][0].speaker == "Assistant" else _parted(*both)
    return parted if isinstance(parted, Skip) else _read(row, *parted, preferred)


def _rejected_response(row: Row) -> Read | Skip:
    """A dialogue that ends with the better response, and the worse one."""
    better, worse = _question(row, "messages"), _turns(row, "rejected_response", "Assistant")
    if isinstance(better, Skip) or isinstance(worse, Skip):
        return better if isinstance(better, Skip) else worse  # type: ignore[return-value]
    last = max((place for place, turn in enumerate(better) if turn.speaker == "User"), default=-1) + 1
    return _read(row, better[:last], better[last:], worse, "1")


def _ranked(row: Row) -> Read | Skip:
    """VL-RewardBench: two responses and their ranks, of which 0 is the best."""
    responses, ranks = row.get("response"), row.get("human_ranking")
    if not isinstance(responses, list) or len(responses) != 2 or not isinstance(ranks, list) or len(ranks) != 2:
        return Skip("not two responses with ranks")
    if any(type(rank) is not int for rank in ranks) or ranks[0] == ranks[1]:
        return Skip("no label")
    named = {**row, "response_1": responses[0], "response_2": responses[1], "preferred": 1 + (ranks[0] > ranks[1])}
    return _asked(named, "query", RESPONSES[0], "preferred")


def _layout(name: str, columns: Sequence[str], read: Callable[..., Read | Skip], **how: Any) -> Layout:
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
