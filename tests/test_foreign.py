# SPDX-License-Identifier: Apache-2.0
"""What reaches a terminal, a page or a chart of a text that wants more than to be read."""

import io
import json

import pytest

from critic_r1_verl import foreign
from critic_r1_verl.report.charts import Dot, dot_chart, line_chart

HOSTILE = {
    "clear the screen": "\x1b[2J\x1b[H",
    "link": "\x1b]8;;http://evil.example\x07click\x1b]8;;\x07",
    "title": "\x1b]0;owned\x07",
    "8-bit control": "\x9b31mred\x9dtitle\x9c\x85next",
    "overwrite": "wrong\rright\b\b",
    "reversed": "\u202egnp.exe\u202c \u2066a\u2069 \u200f",
    "invisible": "a\u200bb\u2060c\ufeffd\U000e0041\u2028e",
    "half a pair": "\ud83d",
    "null": "\x00\x7f",
}
MARKUP = "[red]not red[/red] [/] [link=http://evil.example]x[/link] :smile: [bold"


def harmless(text: str) -> bool:
    return all(char.isprintable() or char == "\n" for char in text)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_control_characters_are_shown(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert harmless(foreign.visible(text)) and foreign.visible(text) != text
    foreign.say(text)
    foreign.say(text, stderr=True)
    foreign.say_json({text: text})
    console = foreign.console()
    console.print(text)
    console.print(foreign.styled(text, "bold"))
    shown = capsys.readouterr()
    assert harmless(shown.out + shown.err)
    assert json.loads(shown.out[shown.out.index("{\n") : shown.out.index("\n}") + 2]) == {text: text}


@pytest.mark.parametrize("text", ["plain\ttext\nof two lines", "日本語 العربية हिन्दी", "\U0001f469\u200d\U0001f52c", "a\u00adb", "−²₂ ﬁ"])
def test_what_people_write_stays(text: str) -> None:
    assert foreign.visible(text) == text


def test_line_ends_of_windows_are_no_controls() -> None:
    assert foreign.visible("a\r\nb\rc") == "a\nb␍c"


def test_markup_is_text() -> None:
    from rich.progress import Progress
    from rich.table import Table

    console = foreign.console()
    console.file, console.width = io.StringIO(), 200
    table = Table(title=MARKUP)
    table.add_column(MARKUP + "1")
    table.add_row(MARKUP + "2")
    console.print(MARKUP)
    console.print(table)
    with Progress(foreign.column("{task.description}"), console=console) as bar:
        bar.add_task(MARKUP)
    assert console.file.getvalue().count(MARKUP) >= 5


def test_track_gives_the_items_and_takes_any_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(foreign.track([1, 2], "\x1b[2J[/red]", 2)) == [1, 2]
    assert "[2J" not in capsys.readouterr().err.replace("␛[2J[/red]", "")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_labels_of_charts_are_shown_too(text: str) -> None:
    chart = dot_chart([(text, [Dot("base", 0.5, 0.4, 0.6)])], [("base", text)])
    assert harmless(chart) and harmless(line_chart(text, [(1, 0.5), (2, 0.5)], fraction=True))
