# SPDX-License-Identifier: Apache-2.0
"""A JSONL file that long work appends to as results arrive, and from which a killed run goes on."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from critic_r1_verl.records import replacing

Key = tuple[Any, ...]
Work = TypeVar("Work")


class Journal:
    """Lines that carry a unique key. A last line without its end, left by a kill, is dropped and done again."""

    def __init__(self, path: Path, key: Callable[[dict[str, Any]], Key]) -> None:
        self.path, self._key = path, key
        self.lines: dict[Key, dict[str, Any]] = {}
        if path.is_file():
            with path.open("rb") as stream:
                for number, text in enumerate(stream, 1):
                    if not text.endswith(b"\n"):
                        break
                    try:
                        line = json.loads(text)
                        self.lines[key(line)] = line
                    except (ValueError, KeyError, TypeError) as error:
                        raise ValueError(f"{path}:{number}: not a line of this run ({error}); delete the file to start again") from error
            self._rewrite()

    def append(self, lines: Iterable[dict[str, Any]]) -> None:
        """Written through before it returns. OSError names the file, a full disk's too."""
        text = ""
        for line in lines:
            text += json.dumps(line, ensure_ascii=True) + "\n"
            self.lines[self._key(line)] = line
        try:
            with self.path.open("ab") as stream:
                stream.write(text.encode("ascii"))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def finish(self) -> list[dict[str, Any]]:
        """Sort the file by key and return its lines: a resumed run ends with the same file as an undisturbed one."""
        self._rewrite()
        return list(self.lines.values())

    def _rewrite(self) -> None:
        self.lines = {key: self.lines[key] for key in sorted(self.lines)}
        with replacing(self.path) as temporary, temporary.open("w", encoding="ascii", newline="\n") as stream:
            stream.writelines(json.dumps(line, ensure_ascii=True) + "\n" for line in self.lines.values())


def work_off(
    journal: Journal,
    todo: Sequence[tuple[Key, Work]],
    do: Callable[[Sequence[Work]], Iterator[list[dict[str, Any]]]],
    label: str,
    running: Callable[[dict[str, Any]], str] = lambda line: "",
    unit: tuple[str, int] = ("", 1),
) -> list[dict[str, Any]]:
    """Do what the journal does not have yet under a progress bar, and return all its lines, sorted.

    `do` yields the lines of one piece of work as soon as it is done, in any order; `running` says after each line what they add up to. The
    bar's speed is in units, of so many pieces of work each.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed / unit[1]:.2f} {unit[0]}/s" if task.speed else "")

    journal.path.parent.mkdir(parents=True, exist_ok=True)
    open_work = [work for key, work in todo if key not in journal.lines]
    said = [running(line) for line in journal.lines.values()]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        Speed(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[running]}"),
    )
    with Progress(*columns, transient=True, console=Console(stderr=True)) as progress:
        num_done = len(todo) - len(open_work)
        task = progress.add_task(label, total=len(todo), completed=num_done, running=said[-1] if said else "")
        for lines in do(open_work):
            journal.append(lines)
            for line in lines:
                told = running(line)
            progress.update(task, advance=1, running=told)
    return journal.finish()
