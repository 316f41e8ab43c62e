# SPDX-License-Identifier: Apache-2.0
"""Answers to multiple-choice questions: which letters an answer picks, if that is beyond doubt."""

import re

_LETTER = "[A-Ha-h]"
_LEAD = r"(?:(?:the )?(?:correct |right |final )?(?:options?|choices?|answers?)(?: is| are)?\s*:?\s*)?"
_BARE = re.compile(rf"{_LEAD}(?:[(\[{{⦃]\s*({_LETTER})\s*[)\]}}⦄]|({_LETTER}))[.):,]?", re.IGNORECASE)
# A letter with its mark and the text of the option. A letter without a mark is an article or an unknown.
_MARKED = re.compile(
    rf"{_LEAD}(?:\(\s*({_LETTER})\s*\)|\[\s*({_LETTER})\s*\]|({_LETTER})(?:[.:)]|\s+-)(?=\s|[0-9(\\$-]))\s*(\S.*)",
    re.IGNORECASE | re.DOTALL,
)
# Another option in what follows makes the answer two answers.
_OTHER = re.compile(
    r"[(\[]\s*[A-H]\s*[)\]]|(?<![A-Za-z])[A-H](?:[.:)]\s|\))"
    r"|(?:^|[,;:/&|]\s*|\b(?:or|and|not|is|answer|option|choice|maybe|but|also|than) )\(?[A-H](?![A-Za-z])"
)
_HEDGE = re.compile(r"(?:or|and|nor|not|is|if|but|because|wrong|incorrect)\b", re.IGNORECASE)
_SEPARATORS = re.compile(r"\s*(?:[,;&\n]|\band\b)\s*", re.IGNORECASE)
_RUN = re.compile("[A-H]{2,8}")


def letters(text: str) -> tuple[str, ...] | None:
    """The letters of the options that a plain text picks, in alphabetical order, each once; None if it picks none, or not clearly.

    >>> letters("(B) 12 cm"), letters("A, C"), letters("A dog"), letters("A. or B")
    (('B',), ('A', 'C'), None, None)
    """
    text = text.strip().removesuffix(".").strip()
    if match := _BARE.fullmatch(text):
        return ((match[1] or match[2]).upper(),)
    if _RUN.fullmatch(text) and list(text) == sorted(set(text)):
        return tuple(text)
    parts = _SEPARATORS.split(re.sub(rf"^{_LEAD}", "", text, flags=re.IGNORECASE)) if len(text) < 200 else []
    picked = [match for part in parts if part and (match := _BARE.fullmatch(part))]
    if len(picked) > 1 and len(picked) == sum(map(bool, parts)):
        found = [(match[1] or match[2]).upper() for match in picked]
        return tuple(sorted(found)) if len(set(found)) == len(found) else None
    return None if (marked := content(text)) is None else (marked[0],)


def content(text: str) -> tuple[str, str] | None:
    """The letter and the text of one marked option, as in `B. 12 cm`; None for anything else."""
    match = _MARKED.fullmatch(text.strip())
    if match is None or _OTHER.search(match[4]) or _HEDGE.match(match[4]):
        return None
    return (match[1] or match[2] or match[3]).upper(), match[4].strip()
