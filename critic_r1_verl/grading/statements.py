# SPDX-License-Identifier: Apache-2.0
"""What an answer in plain notation states: amounts, tuples, intervals, sets, matrices, equations, inequalities, words.

Form is what two answers are compared by. A statement is divided at its commas, signs of relation and brackets; what is left is evaluated.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from critic_r1_verl.grading import arithmetic, expression, units
from critic_r1_verl.grading.arithmetic import Unreadable, Values
from critic_r1_verl.grading.notation import grouped_commas, key

_MAX_ITEMS, _MAX_DEPTH = 64, 6
_OPENING, _CLOSING = "([{⦃⟦⟨", ")]}⦄⟧⟩"
_RELATIONS = "=<>≤≥≠≈∈"
_FLIPPED = {"<": ">", "≤": "≥", ">": "<", "≥": "≤"}
_CONJUNCTION = re.compile(r"(?<![A-Za-z\\])(?:or|and)(?![A-Za-z])|[∨∧]")
_LETTER = r"[A-Za-z]{1,2}(?:_\{?[A-Za-z0-9]+\}?)?"
# What may stand on the left of an equation as the name of the answer: x, x_{1}, f(x), f^{-1}(x), AB, ∠ABC, S_{△ABC}, \overline{AB}, area,
# (p,q), V_1:V_2, \frac{AB}{CD}.
_NAME = re.compile(
    rf"(?:m?[∠△⊙|#]\s*)?(?:{_LETTER}(?:\s*:\s*{_LETTER})+|\(\s*{_LETTER}(?:\s*,\s*{_LETTER})+\s*\)"
    r"|\\frac\s*\{\s*[A-Z]{1,3}\s*\}\s*\{\s*[A-Z]{1,3}\s*\}|[A-Z]{1,3}/[A-Z]{1,3}|\\[a-z]+\s*\{\s*[A-Za-z' ]+\s*\}"
    r"|(?:the )?[A-Za-z]+(?: [A-Za-z]+){0,4}|[α-ωΑ-Ω]|(?<=∠)[0-9]|(?<=∠ )[0-9])"
    r"\s*(?:_\s*(?:\{[^{}]*\}|[A-Za-z0-9]))?'*"
    r"(?:\^\s*\{-1\}|\^\{'+\})?\s*(?:\([^(),0-9]{1,12}\)|\([0-9]\))?\|?"
)
_POINT = re.compile(r"([A-Z])'? ?(\([^()]*,[^()]*\))")
_VARIABLE = re.compile(r"([A-Za-zα-ω])(?:_\{?[A-Za-z0-9]\}?)?(?:\([a-z]\))?")
_UNKNOWNS = re.compile(r"(?<![A-Za-z\\])[A-Za-zα-ορ-ω](?![A-Za-z])")
_SET_BUILDER = re.compile(r"\s*[a-z]\s*(?:∈\s*\\?[A-Za-z]+\s*(?:\{R\})?\s*)?[|:]\s*")


@dataclass(frozen=True, slots=True)
class Form:
    """A part of an answer.

    kind: "value" (values and unit), "text" (its key), "group" (ordered items in two brackets), "items" (in any order) or "relation" (the
    sides, and their signs as text). name: the left side that an equation had, as in x=5.
    """

    kind: str
    text: str = ""
    values: Values = ()
    unit: units.Unit | None = None
    items: tuple["Form", ...] = ()
    name: str = ""
    curve: Values = field(default=())


def read(text: str, *, letters: bool, lists: bool = False) -> Form:
    """The form of a plain text. letters: as in units.split. lists: read 1,234 as two numbers."""
    text = text if lists else grouped_commas(text)
    return _statement(text.strip(), letters, 0)


def _statement(text: str, letters: bool, depth: int) -> Form:
    """Items that are divided by commas, semicolons, lines or conjunctions, or the only item."""
    parts = [part for part in _divide(_CONJUNCTION.sub(",", text), ",;\n∪") if part.strip()]
    if depth > _MAX_DEPTH or len(parts) > _MAX_ITEMS or not parts:
        return Form("text", key(text))
    forms = [form for part in parts for form in _item(part.strip(), letters, depth)]
    # n=2,3 names both numbers.
    names = {form.name for form in forms if form.name}
    if len(names) == 1 and forms[0].name:
        forms = [_named(form, forms[0].name) for form in forms]
    return forms[0] if len(forms) == 1 else Form("items", items=tuple(forms))


def _named(form: Form, name: str) -> Form:
    return Form(form.kind, form.text, form.values, form.unit, form.items, name, form.curve)


def _unnamed(form: Form) -> Form:
    return Form(form.kind, form.text, form.values, form.unit, form.items)


def _item(text: str, letters: bool, depth: int) -> list[Form]:
    """One item; two for a ± sign."""
    text = text.removesuffix(".").strip()
    sides, signs = _relation(text)
    if len(sides) > 1 and sides[0] == "" and signs[0] in "=≈":
        sides, signs = sides[1:], signs[1:]
    if len(sides) == 1:
        return _side(sides[0], letters, depth)
    if not all(sides) or len(sides) > 8:
        return [Form("text", key(text))]
    if interval := _interval(sides, signs, letters, depth):
        return [interval]
    if set(signs) == {"="}:
        # 24*24=576 states the number.
        found = [_side(side, letters, depth) for side in sides]
        if all(len(forms) == 1 and len(forms[0].values) == 1 and _same_all(forms, found[-1]) for forms in found):
            return found[-1]
    if set(signs) <= set("=≈∈"):
        sides = sides[::-1] if len(sides) == 2 and _NAME.fullmatch(sides[1]) and not _NAME.fullmatch(sides[0]) else sides
        values = sides[:]
        while len(values) > 1 and _NAME.fullmatch(values[0]):
            values.pop(0)
        if len(values) < len(sides):
            found = [_side(value, letters, depth) for value in values]
            if any(not _same_all(one, found[-1]) for one in found[:-1]):
                return [Form("text", key(text))]
            # A number has no curve: x-5=0 is not yet the answer x=5.
            is_curve = len(_UNKNOWNS.findall(" ".join(sides[1:]))) > 0
            return [_with_curve(_named(form, key(sides[0])), sides if is_curve else []) for form in found[-1]]
    return [_with_curve(_sides(sides, signs, letters, depth), sides if signs == ["="] else [])]


def _sides(sides: Sequence[str], signs: Sequence[str], letters: bool, depth: int) -> Form:
    """A relation, turned so that it says less or equal instead of greater."""
    if set(signs) <= set(">≥"):
        sides, signs = sides[::-1], [_FLIPPED[sign] for sign in reversed(signs)]
    found = [_side(side, letters, depth) for side in sides]
    if any(len(forms) != 1 for forms in found):
        return Form("text", key("".join(f"{side}{sign}" for side, sign in zip(sides, [*signs, ""], strict=True))))
    return Form("relation", "".join(signs), items=tuple(forms[0] for forms in found))


def _with_curve(form: Form, sides: Sequence[str]) -> Form:
    """The form with the difference of the two sides of an equation."""
    if len(sides) != 2:
        return form
    try:
        (left,), (right,) = expression.values(sides[0]), expression.values(sides[1])
        return Form(form.kind, form.text, form.values, form.unit, form.items, form.name, arithmetic.difference(left, right))
    except (Unreadable, ValueError):
        return form


def _interval(sides: Sequence[str], signs: Sequence[str], letters: bool, depth: int) -> Form | None:
    """The interval of 1<x≤3 or x>5; None for any other relation."""
    if not set(signs) <= set(_FLIPPED) or len(sides) > 3:
        return None
    if (len(sides) == 3 and all(sign in ">≥" for sign in signs)) or (len(sides) == 2 and signs[0] in ">≥"):
        sides, signs = sides[::-1], [_FLIPPED[sign] for sign in reversed(signs)]
    if not all(sign in "<≤" for sign in signs):
        return None
    if len(sides) == 2:
        if _VARIABLE.fullmatch(sides[0]):
            sides, signs = ["-∞", *sides], ["<", *signs]
        elif _VARIABLE.fullmatch(sides[1]):
            sides, signs = [*sides, "∞"], [*signs, "<"]
        else:
            return None
    if not _VARIABLE.fullmatch(sides[1]):
        return None
    ends = [_side(side, letters, depth) for side in (sides[0], sides[2])]
    if any(len(end) != 1 or end[0].kind != "value" for end in ends):
        return None
    brackets = ("(" if signs[0] == "<" else "[") + (")" if signs[1] == "<" else "]")
    return Form("group", brackets, items=(ends[0][0], ends[1][0]), name=key(sides[1]))


def _side(text: str, letters: bool, depth: int) -> list[Form]:
    """One side of a relation: brackets with several items, a ratio, or an expression with its unit; otherwise text."""
    text = text.strip()
    if (brackets := _enclosed(text)) and depth < _MAX_DEPTH:
        inner = text[1:-1]
        if brackets == "⟦⟧":
            rows = [_divide(row, "&") for row in inner.split("\n") if row.strip()]
            return [_group("⟦⟧", [cell for row in rows for cell in row], letters, depth, str([len(row) for row in rows]))]
        if brackets in ("⦃⦄", "{}"):
            inner = _SET_BUILDER.sub("", inner, count=1) if brackets == "⦃⦄" else inner
            found = _statement(inner, letters, depth + 1)
            # A set in a set is an element of it.
            return [Form("group", brackets, items=(found,)) if depth and brackets == "⦃⦄" else found]
        if _enclosed(inner.strip()) == "⟦⟧":
            return _side(inner, letters, depth + 1)
        parts = _divide(inner, ",;")
        if len(parts) > 1:
            return [_group(brackets, parts, letters, depth)]
    if match := _POINT.fullmatch(text):
        return [_named(form, match[1]) for form in _side(match[2], letters, depth)]
    if len(parts := _divide(text, ":")) > 1 and all(parts):
        return [_group("::", parts, letters, depth)]
    amount, unit = units.split(text, letters=letters)
    try:
        return [Form("value", key(text), values, unit) for values in expression.values(amount)]
    except Unreadable:
        return [Form("text", key(text))]


def _group(brackets: str, parts: Sequence[str], letters: bool, depth: int, shape: str = "") -> Form:
    if len(parts) > _MAX_ITEMS:
        return Form("text", key(",".join(parts)))
    return Form("group", brackets + shape, items=tuple(_statement(part.strip(), letters, depth + 1) for part in parts))


def _divide(text: str, separators: str) -> list[str]:
    """The parts of a text between separators that stand outside all brackets; one part if the brackets do not match."""
    parts, depth, start = [], 0, 0
    for place, char in enumerate(text):
        if char in _OPENING:
            depth += 1
        elif char in _CLOSING:
            depth -= 1
        elif depth == 0 and char in separators:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]] if depth == 0 else [text]


def _relation(text: str) -> tuple[list[str], list[str]]:
    """The sides of a relation, and the signs between them."""
    sides = [side.strip() for side in _divide(text, _RELATIONS)]
    signs, place = [], -1
    for side in _divide(text, _RELATIONS)[:-1]:
        place += len(side) + 1
        signs.append(text[place])
    return sides, signs


def _enclosed(text: str) -> str:
    """The first and the last bracket if they enclose the whole text, else an empty string. [0,1) counts."""
    if len(text) < 2 or text[0] not in _OPENING or text[-1] not in _CLOSING:
        return ""
    depth = 0
    for place, char in enumerate(text):
        depth += (char in _OPENING) - (char in _CLOSING)
        if depth == 0 and place < len(text) - 1:
            return ""
    return text[0] + text[-1]


def _same_all(one: Sequence[Form], other: Sequence[Form]) -> bool:
    return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))


def same(answer: Form, truth: Form) -> bool:
    """Whether an answer states what the truth states. Names and units count if the truth has them and the answer has others."""
    if _same_curve(answer, truth):
        return True
    if answer.name and truth.name and not _same_name(answer.name, truth.name):
        return False
    if answer.kind != truth.kind:
        point, named = (answer, truth) if answer.kind == "group" else (truth, answer)
        names = [form.name for form in named.items]
        is_point = point.text == "()" and named.kind == "items" and names == sorted(set(names)) and all(len(name) == 1 for name in names)
        return is_point and _same_all(tuple(map(_unnamed, answer.items)), tuple(map(_unnamed, truth.items)))
    if answer.kind == "text":
        return answer.text == truth.text
    if answer.kind == "value":
        return _same_amount(answer, truth)
    if answer.text != truth.text or len(answer.items) != len(truth.items):
        return False
    if answer.kind == "items":
        return _same_items(answer.items, truth.items)
    return all(same(a, b) for a, b in zip(answer.items, truth.items, strict=True))


def _same_name(one: str, other: str) -> bool:
    """x_1 and x_2 are one name, because roots may be numbered in any order; a word may stand for a letter, as area for S."""
    one, other = one.partition("_")[0], other.partition("_")[0]
    return one == other or (len(one) > 3) != (len(other) > 3)


def _same_curve(answer: Form, truth: Form) -> bool:
    """Whether two equations in at least two unknowns hold for the same points."""
    return bool(truth.curve and answer.curve) and not (truth.name and answer.name) and arithmetic.proportional(answer.curve, truth.curve)


def _same_items(answer: Sequence[Form], truth: Sequence[Form]) -> bool:
    """Whether items are the same in some order; in the given order if only one side names them, and by different names."""
    named, others = ({form.name for form in forms if form.name} for forms in (answer, truth))
    if bool(named) != bool(others) and len(named | others) > 1:
        return all(same(a, b) for a, b in zip(answer, truth, strict=True))
    left = list(truth)
    for form in answer:
        found = next((place for place, other in enumerate(left) if same(form, other)), None)
        if found is None:
            return False
        del left[found]
    return True


def _same_amount(answer: Form, truth: Form) -> bool:
    unit, wanted = answer.unit, truth.unit
    if unit is not None and wanted is not None:
        if unit.basis != wanted.basis:
            return False
        return arithmetic.same(arithmetic.scaled(answer.values, unit.factor), arithmetic.scaled(truth.values, wanted.factor))
    given = unit or wanted
    if given is None or not given.is_percent:
        return arithmetic.same(answer.values, truth.values)
    percents, number = (answer.values, truth.values) if unit else (truth.values, answer.values)
    if arithmetic.same(arithmetic.scaled(percents, Fraction(1, 100)), number):
        return True
    # 25 may mean 25%, but 0.25 is another number than 0.25%.
    return arithmetic.same(answer.values, truth.values) and all(value is not None and not -1 < value < 1 for value in number)


def parts(form: Form) -> Iterator[Form]:
    """The form and all its parts."""
    yield form
    for item in form.items:
        yield from parts(item)
