# SPDX-License-Identifier: Apache-2.0
r"""Whether an answer equals the ground truth, as a fair teacher would say who sees only these two.

Notation does not count: `\dfrac{1}{2}`, `0.5` and `½` are the same. The letter of an option counts, not the text behind it. Units, names
and money count if the truth has them and the answer has others. What is in doubt is wrong.

Time and memory are bounded by construction, for every text: a long text is compared as text alone, and a short one is evaluated within
the bounds that `expression` states. Where that cannot tell, math-verify is asked, within the bounds that `symbolic` states. There are no
signals and no worker process.
"""

import re
from fractions import Fraction
from functools import lru_cache

from critic_r1_verl.grading import options, statements, symbolic
from critic_r1_verl.grading.notation import key, plain

_MAX_CHARS = 600
# A longer text is not even compared with its spaces removed.
_MAX_TEXT_CHARS = 20_000
_LEAD = re.compile(r"\A(?:(?:the )?(?:final |correct )?(?:answer|result)(?: is)?\s*[:=]?\s*|[=≈:]\s*)(?=\S)", re.IGNORECASE)
_ARTICLE = re.compile(r"(?:a|an|the) (?=[a-z]{2})", re.IGNORECASE)
_WORDS = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+)*")
_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve"
_NUMBER_WORDS = {word: str(number) for number, word in enumerate(_NUMBERS.split())}
_COUNTED = re.compile(rf"\A({_NUMBERS.replace(' ', '|')})(?= [a-z]+s\Z|\Z)", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,30})(?:\.[0-9]{1,30})?", re.ASCII)
_QUOTED = re.compile(r"\A[\"'“](.+)[\"'”]\Z")
_LETTER = re.compile("[A-Za-z]")
_LINES = re.compile(r"\s+")


def is_right(answer: str, truth: str) -> bool:
    r"""Whether an answer is right.

    >>> is_right("5 cm", "5"), is_right("5 cm", "5 m"), is_right(r"\sqrt{12}", r"2\sqrt{3}"), is_right("B. 12 cm", "B")
    (True, False, True, True)
    """
    found = equal(answer, truth)
    return symbolic.equal(_read_plain(answer.strip()), _read_truth(truth.strip())[0]) if found is None else found


def equal(answer: str, truth: str) -> bool | None:
    r"""Whether an answer equals the truth, as far as the own reader can tell; None if it cannot.

    >>> equal(r"\sin x", r"\sin(x)"), equal(r"\sin 30^\circ", "0.5"), equal("5", "6")
    (True, None, False)
    """
    answer, truth = answer.strip(), truth.strip()
    if answer == truth:
        return bool(truth)
    if max(len(answer), len(truth)) > _MAX_TEXT_CHARS:
        return False
    if max(len(answer), len(truth)) > _MAX_CHARS:
        return _LINES.sub(" ", answer).casefold() == _LINES.sub(" ", truth).casefold()
    if _NUMBER.fullmatch(answer) and _NUMBER.fullmatch(truth):
        return Fraction(answer.replace(",", "")) == Fraction(truth.replace(",", ""))
    if _LETTER.fullmatch(answer) and _LETTER.fullmatch(truth):
        return answer.casefold() == truth.casefold()
    given, (wanted, expected) = _read_plain(answer), _read_truth(truth)
    # A single character can stand for many.
    if not given or not wanted or max(len(given), len(wanted)) > 2 * _MAX_CHARS:
        return False
    if (verdict := _same_option(given, wanted)) is not None:
        return verdict
    if _word_key(given, folded=False) == _word_key(wanted, folded=False):
        return True
    is_amount = expected.kind == "value" and expected.unit is None and re.fullmatch(r"-?[0-9.,]+", wanted) is not None
    if statements.same(statements.read(given, letters=is_amount), expected):
        return True
    # 1,234 may be two numbers where the truth is a list.
    if expected.kind == "items" and statements.same(statements.read(given, letters=False, lists=True), expected):
        return True
    # Case counts for units alone: MW is not mW.
    units_differ = any(part.unit for part in statements.parts(expected))
    if not units_differ and _word_key(given) == _word_key(wanted):
        return True
    return None if symbolic.is_circular(given) or symbolic.is_circular(wanted) else False


@lru_cache(maxsize=1024)
def _read_truth(truth: str) -> tuple[str, statements.Form]:
    """The plain text of a truth and its form; the answers of a group share the truth."""
    wanted = _read_plain(truth)
    return wanted, statements.read(wanted if len(wanted) <= 2 * _MAX_CHARS else "", letters=False)


def _read_plain(text: str) -> str:
    """The plain text without a lead like "The answer is", and a number in words as digits."""
    text = _QUOTED.sub(r"\1", plain(text)).strip().strip("*").strip().removesuffix(".").rstrip()
    return _COUNTED.sub(lambda match: _NUMBER_WORDS[match[1].lower()], _LEAD.sub("", text, count=1))


def _same_option(given: str, wanted: str) -> bool | None:
    """Whether the answer picks the options that the truth names; None if the truth names none."""
    truth = options.letters(wanted)
    if truth is None:
        return None
    picked = options.letters(given)
    marked, marked_given = options.content(wanted), options.content(given)
    if marked is not None:
        # The truth has the text of the option too: the letter alone is right, the text alone as well, another text for the letter is not.
        if marked_given is None:
            return picked == truth or (picked is None and equal(given, marked[1]))
        return marked == marked_given or (marked[0] == marked_given[0] and equal(marked_given[1], marked[1]))
    if picked is not None:
        return picked == truth
    # A truth like b may be an unknown.
    return None if len(wanted) == 1 and re.match(r"[A-Za-z]\s*=", given) else False


def _word_key(text: str, *, folded: bool = True) -> str:
    """The key of a text; for words without their article and their hyphens."""
    if _WORDS.fullmatch(text.rstrip("!")) and len(text) > 2:
        text = text.rstrip("!")
        text = _ARTICLE.sub("", text, count=1)
        text = text.replace("-", " ") if re.search("[A-Za-z]{3}", text) else text
    return key(text, folded=folded)
