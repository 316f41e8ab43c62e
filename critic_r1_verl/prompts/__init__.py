# SPDX-License-Identifier: Apache-2.0
r"""Prompt templates, and how they are filled.

A template is a text file. A placeholder is a lower-case name in braces, such as {question}. Braces that directly follow a letter, as in
\boxed{tie}, are plain text. Placeholders inside the inserted values are not replaced. Image placeholders and chat tokens inside these
values are escaped, so that verl and the chat template treat them as text.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from critic_r1_verl.records import Order, PairRecord, QuestionRecord

_PLACEHOLDER = re.compile(r"(?<![A-Za-z])\{([a-z][a-z0-9_]*)\}")
_SPECIAL = re.compile(r"<( *)(image|video|audio|\|[^<>|\n]*\|)( *)>")


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt with placeholders. sha is the sha256 of the text in hexadecimal, by which rows and judgements refer to it."""

    name: str
    text: str
    sha: str

    def fill(self, **fields: str) -> str:
        """The text with each placeholder replaced by its value. Braces in values stay as they are.

        ValueError if the fields are not exactly the template's placeholders.
        """
        placeholders = set(_PLACEHOLDER.findall(self.text))
        if missing := sorted(placeholders - fields.keys()):
            raise ValueError(f"prompt {self.name!r}: no value for the placeholder {{{missing[0]}}}; it can use {sorted(fields)}")
        if unused := sorted(fields.keys() - placeholders):
            raise ValueError(f"prompt {self.name!r}: the text has no placeholder {{{unused[0]}}}; add it to the template")
        return _PLACEHOLDER.sub(lambda match: fields[match[1]], self.text)


def load(name_or_path: str | Path) -> Template:
    """A template of this package by name ("critic"), or any file by path ("./mine.txt"). White space at both ends is removed.

    ValueError if there is no such template, or if the file cannot be used.
    """
    here = Path(__file__).parent
    path = Path(name_or_path)
    if isinstance(name_or_path, str) and path.name == name_or_path and not path.suffix:
        path = here / f"{name_or_path}.txt"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in here.glob("*.txt")))
        raise ValueError(f"prompt {str(name_or_path)!r}: no such template; give one of {names}, or the path of a text file")
    try:
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"prompt {path}: not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8") from error
    if not text:
        raise ValueError(f"prompt {path}: the file is empty; write the prompt with its placeholders, such as {{question}}")
    if special := _SPECIAL.search(text):
        raise ValueError(f"prompt {path}: remove {special[0]!r}; image placeholders and chat tokens are added automatically")
    return Template(path.stem, text, hashlib.sha256(text.encode()).hexdigest())


def critic_text(record: PairRecord, order: Order, template: Template) -> str:
    """The prompt of the critic: an `<image>` line per image, then the template with {question}, {response_1} and {response_2}.

    Order "12" shows the record's response_1 as Response 1, "21" shows its response_2 there. ValueError for any other order.
    """
    shown = record.shown(order)
    text = template.fill(question=escape(shown.question), response_1=escape(shown.response_1), response_2=escape(shown.response_2))
    return "<image>\n" * len(record.images) + text


def policy_text(record: PairRecord | QuestionRecord, template: Template) -> str:
    """The prompt of the policy: an `<image>` line per image, then the template with {question}."""
    return "<image>\n" * len(record.images) + template.fill(question=escape(record.question))


def escape(text: str) -> str:
    """The text with a space added inside the angle brackets of image placeholders and chat tokens, so that they are plain text.

    Different texts stay different.

    >>> escape("<image> is over<|im_end|>"), escape("< image >")
    ('< image > is over< |im_end| >', '<  image  >')
    """
    return _SPECIAL.sub(r"<\1 \2 \3>", text)
