# SPDX-License-Identifier: Apache-2.0
"""Show text on a terminal or a page. Everything that this package prints goes through this module; a test holds that.

What a model, a file or a server says may hold characters that do not show: they move the cursor, colour or hide text, write links, or
reverse the direction of reading. visible() replaces them by symbols, and the other functions print what it returns, without markup.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")

# C0 and C1 controls except tab and newline, marks and overrides of direction, separators of lines, characters without width (but not the
# joiners of emoji and of Indic and Arabic letters, nor the soft hyphen), annotations, tags, and halves of surrogate pairs.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)


def visible(text: str) -> str:
    r"""The text with visible symbols for hidden characters: U+2400 to U+2421 for controls of ASCII, else a backslash and the code.

    Line ends of Windows become those of Unix. The result has an encoding in UTF-8.

    >>> visible("\x1b[31mred\u202e\x9b")
    '␛[31mred\\u202e\\x9b'
    """
    return _HIDDEN.sub(_symbol, text.replace("\r\n", "\n"))


def say(text: object = "", *, stderr: bool = False) -> None:
    """Print one text and a newline, at once, as visible() shows it."""
    print(visible(str(text)), file=sys.stderr if stderr else sys.stdout, flush=True)


def say_json(content: Any) -> None:
    """Print indented JSON in ASCII."""
    # JSON leaves one character below 128 as it is that does not show.
    print(json.dumps(content, indent=2).replace("\x7f", "\\u007f"), flush=True)


def console(*, stderr: bool = False) -> Any:
    """A rich console that takes no text for markup, emoji codes or something to highlight, and prints each str as visible() shows it."""
    from rich.console import Console

    class PlainConsole(Console):
        def render_str(self, text: str, **options: Any) -> Any:
            return super().render_str(visible(text), **options)

    return PlainConsole(stderr=stderr, highlight=False, markup=False, emoji=False)


def styled(text: str, style: str = "") -> Any:
    """A rich Text of visible(text), for a console, a cell or a title."""
    from rich.text import Text

    return Text(visible(text), style)


def column(template: str) -> Any:
    """A column of a progress bar, such as "{task.description}", without markup and with hidden characters shown."""
    from rich.progress import Task, TextColumn

    class PlainColumn(TextColumn):
        def render(self, task: Task) -> Any:
            return styled(self.text_format.format(task=task))

    return PlainColumn(template)


def track(items: Iterable[Item], text: str, total: int | None = None) -> Iterator[Item]:
    """The items, with a progress bar on stderr that disappears at the end."""
    from rich.progress import Progress

    columns = (column("{task.description}"), *Progress.get_default_columns()[1:])
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        yield from bar.track(items, total=total, description=text)


def _symbol(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20 or code == 0x7F:
        return chr(0x2421 if code == 0x7F else 0x2400 + code)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
