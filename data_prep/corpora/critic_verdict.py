# SPDX-License-Identifier: Apache-2.0
"""Reads a written verdict such as "Response 1", "[[2]]", "\\boxed{1}", "The second response is better." or "Both are equally good."

Only whole texts that can mean one thing are read; a text that needs a guess is not ("0", "C", "both", "1 or 2", "the better one").
"""

import re

from critic_r1_verl.records import Choice

MAX_CHARS = 200

_SIDES: dict[str, Choice] = {
    **dict.fromkeys(("1", "1.0", "first", "1st", "a"), "1"),
    **dict.fromkeys(("2", "2.0", "second", "2nd", "b"), "2"),
}
_LETTERS = {"a", "b"}
_OTHER: dict[Choice, Choice] = {"1": "2", "2": "1"}

_NOUN = "(?:response|answer|option|candidate|assistant)"
_NUMBER, _ORDINAL = r"(?P<{0}>1(?:\.0)?|2(?:\.0)?|a|b)", r"(?P<{0}>first|second|1st|2nd)"


def _side(name: str) -> str:
    """A pattern for one response. Its groups NAME0, NAME1 and NAME2 hold the word that says which."""
    # A group name can stand only once in a pattern, so the number has a name inside and one outside of a phrase with a noun.
    noun = rf"{_NOUN}(?:: ?|[ _#-]|(?=\d|\[))\[?{_NUMBER.format(name + '0')}\]?"
    return rf"(?:the )?(?:{noun}|{_ORDINAL.format(name + '1')}(?: one| {_NOUN})?|\[?{_NUMBER.format(name + '2')}\]?)"


_BETTER = r"(?:better|preferred|best|chosen|winning)"
_IS_BETTER = (
    rf" (?:is (?:(?:slightly|much|clearly|significantly|far) )?(?:{_BETTER}|the {_BETTER}(?: one| {_NOUN})?|the winner)|wins)"
    rf"(?: (?:than|over|to) {_side('worse')})?"
)
_LEAD = rf"(?:(?:the |my |final )*(?:{_BETTER}(?: one| {_NOUN})?|winner|verdict|choice)(?: is:? |: ?| ))"
_CHOICE = re.compile(rf"(?:{_LEAD})?{_side('better')}|{_side('side')}{_IS_BETTER}|(?P<left>[ab]) ?(?P<sign>>>?|<<?) ?(?P<right>[ab])")

_EQUAL = r"(?:equal|tied|equally good|of equal quality|equal in quality)"
_TIE = re.compile(
    rf"(?:it is |it's )?(?:a )?(?:tie|draw)|{_EQUAL}|both (?:are )?{_EQUAL}|(?:the )?(?:two |both )?{_NOUN}s are (?:both )?{_EQUAL}"
    rf"|neither (?:{_NOUN} )?is better"
)
_WRAPPED = re.compile(
    r"\\+(?:boxed|text|textbf|mathbf)\{(.*)\}|<answer>(.*)</answer>|\[(.*)\]|\((.*)\)|\{(.*)\}"
    r"|\*(.*)\*|\"(.*)\"|'(.*)'|`(.*)`|\$(.*)\$|“(.*)”"
)


def verdict(text: str, *, lettered: bool) -> Choice | None:
    """The better response, "tie", or None for a text that is not read. Letters are read only if lettered: the prompt has responses A and B.

    >>> verdict("The better response: [1]", lettered=False), verdict("A", lettered=True), verdict("A", lettered=False)
    ('1', '1', None)
    """
    word = _bare(text)
    if _TIE.fullmatch(word) or (lettered and word in ("a=b", "a = b")):
        return "tie"
    found = _CHOICE.fullmatch(word)
    if not found:
        return None
    groups = {name: value for name, value in found.groupdict().items() if value}
    if not lettered and _LETTERS & set(groups.values()):
        return None
    sign = groups.pop("sign", ">")
    named = {name.rstrip("012"): _SIDES[value] for name, value in groups.items()}
    better = named.get("better") or named.get("side") or named["left" if sign[0] == ">" else "right"]
    worse = named.get("worse") or named.get("right" if sign[0] == ">" else "left") or _OTHER[better]
    return better if worse == _OTHER[better] else None


def _bare(text: str) -> str:
    """The text in lower case, with single spaces, without full stops at its end and without brackets, quotes and boxes around it."""
    word = " ".join(text.lower().split())
    if len(word) > MAX_CHARS:
        return ""
    while True:
        word = word.rstrip(" .,;:!").lstrip()
        found = _WRAPPED.fullmatch(word)
        if not found or found.lastindex is None:
            return word
        word = found[found.lastindex]
