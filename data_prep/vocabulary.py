# SPDX-License-Identifier: Apache-2.0
"""Labels whose spellings, and prompts whose forms no documentation lists.

A corpus module names their column in LABEL, which may be a function of the row, and returns unread(value) for a label that it cannot read
without a guess. Such rows are counted by their spelling. The build stops only if they are too many, and only after all rows were read, so
that all spellings are seen at once. --answer SPELLING=MEANING says what a spelling means; convert() then sees the meaning. Prompts that
could not be divided into question and responses are counted in the same way, by their form, which is the spelling of their Skip.
"""

import hashlib
import math
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from critic_r1_verl.records import PairRecord, Record
from data_prep.corpus import Skip

MAX_UNREAD = 0.02
"""The largest share of the rows of a corpus that a build loses to labels, or to prompts, that were not read."""

MEANINGS = ("1", "2", "tie", "skip")
UNREAD = "answer not read"
SKIPPED = "answer skipped by --answer"
OTHERS = "(other spellings)"

MAX_CHARS, MAX_SPELLINGS, MAX_SHOWN = 60, 100, 20

_SHORTENED = re.compile(r"\.\.\. #[0-9a-f]{6}$")


def spelling(value: Any, *, whole: bool = False) -> str:
    """A label as text, in lower case and with single spaces. Unless whole, it is at most MAX_CHARS printable characters and a short hash.

    >>> spelling(1.0), spelling("  Response\\n1 ")
    ('1', 'response 1')
    """
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value)
    text = " ".join(text.lower().split())
    if whole:
        return text
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[:MAX_CHARS])
    # A spelling that was copied from a message is its own spelling.
    if shown == text or (len(text) <= MAX_CHARS + 11 and _SHORTENED.search(text)):
        return text
    # The hash tells labels apart that begin alike.
    return f"{shown}... #{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:6]}"


def unread(value: Any) -> Skip:
    """The Skip of a row whose label cannot be read without a guess."""
    return Skip(UNREAD, spelling(value))


def parse(words: Sequence[str]) -> dict[str, str]:
    """{spelling: meaning} of the words SPELLING=MEANING of --answer. ValueError for a malformed one and for one that contradicts another.

    >>> parse(["Response A is better=1", "[[A=B]]=tie"])
    {'response a is better': '1', '[[a=b]]': 'tie'}
    """
    answers: dict[str, str] = {}
    for word in words:
        written, _, meaning = word.rpartition("=")
        key = spelling(written)
        if not key or meaning not in MEANINGS:
            raise ValueError(f"--answer {word}: write it as SPELLING=MEANING, where MEANING is one of {', '.join(MEANINGS)}")
        if answers.setdefault(key, meaning) != meaning:
            raise ValueError(f"--answer {word}: this spelling is also given the meaning {answers[key]}")
    if "0" in answers and "1" not in answers:
        raise ValueError("--answer 0: say what 1 means too, since it no longer means the first response by itself")
    return answers


Column = str | Callable[[dict[str, Any]], str]


def _column(raw: dict[str, Any], column: Column) -> str:
    return column if isinstance(column, str) else column(raw)


def mapped(raw: dict[str, Any] | Skip, column: Column, answers: Mapping[str, str]) -> dict[str, Any] | Skip:
    """The raw row with the meaning of its label in place of a spelling that answers holds."""
    name = "" if isinstance(raw, Skip) else _column(raw, column)
    meaning = answers.get(spelling(raw.get(name))) if name and not isinstance(raw, Skip) else None
    if isinstance(raw, Skip) or meaning is None:
        return raw
    return Skip(SKIPPED) if meaning == "skip" else raw | {name: meaning}


def note(raw: Any, column: Column, found: Record | Skip, read_as: Counter[str], unread: Counter[str]) -> None:
    """Count how the label of a raw row was read, or that it was not. Of each kind, MAX_SPELLINGS spellings are told apart."""
    if isinstance(found, PairRecord) and (column := _column(raw, column)):
        counter, text = read_as, f"{spelling(raw.get(column))}={found.preferred}"
    elif isinstance(found, Skip) and found.reason == UNREAD:
        counter, text = unread, found.spelling
    else:
        return
    _count(text, counter)


def note_form(found: Record | Skip, forms: Counter[str]) -> bool:
    """Whether a row was skipped for the form of its prompt, which is then counted."""
    unread = isinstance(found, Skip) and found.reason != UNREAD and bool(found.spelling)
    if isinstance(found, Skip) and unread:
        _count(found.spelling, forms)
    return unread


def _count(text: str, counter: Counter[str]) -> None:
    counter[text if text in counter or len(counter) < MAX_SPELLINGS else OTHERS] += 1


def total(counted: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sum of several counts of spellings: the MAX_SPELLINGS most frequent, most frequent first, then the sum of the others."""
    sums: Counter[str] = Counter()
    for one in counted:
        sums.update(one)
    others = sums.pop(OTHERS, 0)
    ranked = sorted(sums.items(), key=lambda item: (-item[1], item[0]))
    others += sum(number for _, number in ranked[MAX_SPELLINGS:])
    return dict(ranked[:MAX_SPELLINGS]) | ({OTHERS: others} if others else {})


def listing(spellings: Mapping[str, int]) -> str:
    """The first MAX_SHOWN spellings with their counts, and the number of rows with any other."""
    shown = [f"{number} x {text}" for text, number in list(spellings.items())[:MAX_SHOWN]]
    rest = sum(list(spellings.values())[MAX_SHOWN:])
    return "; ".join(shown) + (f"; {rest} x others" if rest else "")


def check(name: str, counts: Mapping[str, Any], most: float) -> None:
    """ValueError if more than the share `most` of the rows of a corpus would be lost because their labels, or prompts, were not read.

    counts: those of the corpus (shards.Counts).
    """
    _check_prompts(name, counts["read"], counts.get("unread_prompts", {}), counts.get("first_unread_prompt", ""), most)
    _check_labels(name, counts["read"], counts.get("read_as", {}), counts.get("unread", {}), most)


def _check_prompts(name: str, read: int, forms: Mapping[str, int], first: str, most: float) -> None:
    lost = sum(forms.values())
    if not lost or lost / read <= most:
        return
    share = math.ceil(100 * lost / read) / 100
    raise ValueError(
        f"{name}: the prompts of {lost} of {read} rows cannot be divided into question and responses, more than {100 * most:g} %. By their "
        f"headings: {listing(forms)}. The first is {first}. Look at such rows, then divide them in a converter of your own (--corpus "
        f"mine.py:PATH, see docs/data.md), or leave them out: the same command with --max-unread {share:g} goes on"
    )


def _check_labels(name: str, read: int, read_as: Mapping[str, int], unread: Mapping[str, int], most: float) -> None:
    lost = sum(unread.values())
    if not lost or lost / read <= most:
        return
    example = shlex.quote(f"{next(iter(unread))}=1")
    raise ValueError(
        f"{name}: the answers of {lost} of {read} rows cannot be read without a guess, more than {100 * most:g} %: {listing(unread)}. "
        f"Read were: {listing(read_as) or 'none'}. Look at such rows, then run the same command with --answer {example} and so on, "
        f"SPELLING=MEANING for each spelling; the meanings are {', '.join(MEANINGS)}"
    )
