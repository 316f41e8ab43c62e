# SPDX-License-Identifier: Apache-2.0
"""Compares the questions of records with those of the benchmarks, by their words and by their specific 8-grams of words."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.contamination.items import Hit, Item

MIN_SHARE = 0.5
GRAM_WORDS = 8
COMMON_IMAGES = 5
SAME_WORDS = "question: same words"

_PLACEHOLDER = re.compile(r"< *(?:image|video|audio) *>")
# A word is a run of letters and digits, or one character of a script without spaces between words.
_UNSPACED = r"\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def words(question: str) -> list[str]:
    """The words of a question in lower case, without punctuation and image placeholders.

    >>> words("<image>\\nWhat's the man's NAME?")
    ['what', 's', 'the', 'man', 's', 'name']
    """
    return _WORD.findall(_PLACEHOLDER.sub(" ", unicodedata.normalize("NFKC", question).casefold()))


def grams(words: Sequence[str]) -> set[str]:
    """All runs of GRAM_WORDS words; empty for a shorter text."""
    return {" ".join(words[start : start + GRAM_WORDS]) for start in range(len(words) - GRAM_WORDS + 1)}


@dataclass(frozen=True, slots=True)
class _Question:
    """A record whose question shares 8-grams with a benchmark. num_grams: number of all its 8-grams. item: the item with the same words."""

    record_id: str
    source: str
    shared: list[str]
    num_grams: int
    item: int | None


class Questions:
    """The questions of the benchmarks by their 8-grams, and the questions of records that share some of them."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._grams: dict[int, set[str]] = {}
        self._texts: dict[str, int] = {}
        # Of the items without a picture, which only their words can identify.
        self._bare = {" ".join(words(item.question)): position for position, item in enumerate(items) if not item.images}
        self._same: list[tuple[str, str, Hit]] = []
        images: dict[str, set[Any]] = defaultdict(set)
        for position, item in enumerate(items):
            text = words(item.question)
            if self._texts.setdefault(" ".join(text), position) == position:
                self._grams[position] = grams(text)
            for gram in grams(text):
                # Questions without a picture are each about something else.
                images[gram].add(item.images or " ".join(text))
        self._owners: dict[str, list[int]] = {gram: [] for gram, shown in images.items() if len(shown) <= COMMON_IMAGES}
        for position, found in self._grams.items():
            found &= self._owners.keys()
            for gram in found:
                self._owners[gram].append(position)
        self._images: dict[str, set[str]] = defaultdict(set)
        self._questions: list[_Question] = []

    def add(self, record_id: str, source: str, question: str, images: str) -> None:
        """Add the question of a record; images identifies the pictures that it is about, "" for none."""
        text = words(question)
        if not images and (item := self._bare.get(" ".join(text))) is not None:
            self._same.append((record_id, source, (item, SAME_WORDS, 1.0)))
            return
        found = grams(text)
        if shared := sorted(found & self._owners.keys()):
            for gram in shared:
                if len(self._images[gram]) <= COMMON_IMAGES:
                    self._images[gram].add(images or " ".join(text))
            self._questions.append(_Question(record_id, source, shared, len(found), self._texts.get(" ".join(text))))

    def hits(self) -> Iterator[tuple[str, str, Hit]]:
        """(record id, source, hit) for each added question that is in a benchmark, by the 8-grams that are specific in both sets."""
        yield from self._same
        common = {gram for gram, images in self._images.items() if len(images) > COMMON_IMAGES}
        num_specific = {position: len(found - common) for position, found in self._grams.items()}
        for question in self._questions:
            specific = [gram for gram in question.shared if gram not in common]
            if not specific:
                continue
            if question.item is not None:
                yield question.record_id, question.source, (question.item, SAME_WORDS, 1.0)
                continue
            counts = Counter(owner for gram in specific for owner in self._owners[gram])
            num_grams = question.num_grams - (len(question.shared) - len(specific))
            shares = {position: count / min(num_specific[position], num_grams) for position, count in counts.items()}
            best = max(shares, key=lambda position: (shares[position], -position))
            if shares[best] >= MIN_SHARE:
                yield question.record_id, question.source, (best, f"question: shared {GRAM_WORDS}-grams", shares[best])
