# SPDX-License-Identifier: Apache-2.0
"""A JSONL file that long work appends to as results arrive, and from which a killed run goes on."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from critic_r1_verl.engines.base import Completion, Engine, Request
from critic_r1_verl.files import replacing

Key = tuple[Any, ...]
Line = dict[str, Any]
Work = TypeVar("Work")


class Journal:
    """Lines that carry a unique key; they stay in the file, and only where each begins is held.

    A last line without its end, left by a kill, is dropped and done again.
    """

    def __init__(self, path: Path, key: Callable[[Line], Key]) -> None:
        self.path, self._key = path, key
        self._start: dict[Key, int] = {}
        if path.is_file():
            with path.open("r+b") as stream:
                start = 0
                for number, text in enumerate(stream, 1):
                    if not text.endswith(b"\n"):
                        stream.truncate(start)
                        break
                    try:
                        self._start[key(json.loads(text))] = start
                    except (ValueError, KeyError, TypeError) as error:
                        raise ValueError(f"{path}:{number}: not a line of this run ({error}); delete the file to start again") from error
                    start += len(text)

    def __contains__(self, key: Key) -> bool:
        return key in self._start

    def __iter__(self) -> Iterator[Line]:
        """The lines as they stand in the file, read anew each time."""
        if self.path.is_file():
            with self.path.open("rb") as stream:
                yield from map(json.loads, stream)

    def append(self, lines: Iterable[Line]) -> None:
        """Written through before it returns. OSError names the file, a full disk's too."""
        texts = {self._key(line): (json.dumps(line, ensure_ascii=True) + "\n").encode("ascii") for line in lines}
        try:
            with self.path.open("ab") as stream:
                start = stream.tell()
                stream.write(b"".join(texts.values()))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        for key, text in texts.items():
            self._start[key] = start
            start += len(text)

    def finish(self) -> None:
        """Sort the file by key: a resumed run ends with the same file as an undisturbed one."""
        starts: dict[Key, int] = {}
        with self.path.open("a+b") as stream, replacing(self.path) as temporary, temporary.open("wb") as sorted_stream:
            for key in sorted(self._start):
                stream.seek(self._start[key])
                starts[key] = sorted_stream.tell()
                sorted_stream.write(stream.readline())
        self._start = starts


def work_off(
    journal: Journal,
    todo: Callable[[], Iterable[tuple[Key, Work]]],
    generator: Engine,
    ask: Callable[[Work], Request],
    tell: Callable[[Work, Sequence[Completion]], Sequence[Line]],
    label: str,
    running: Callable[[Line], str] = lambda line: "",
    unit: tuple[str, int] = ("", 1),
) -> Journal:
    """Do what the journal does not have yet under a progress bar, and return it, sorted.

    todo() gives the work piece by piece, anew each time, under the key of its last line; tell() makes its lines of the texts that its
    request was answered with. `running` says after each line what they add up to. The bar's speed is in units, of so many pieces of work
    each.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed / unit[1]:.2f} {unit[0]}/s" if task.speed else "")

    journal.path.parent.mkdir(parents=True, exist_ok=True)
    num_all = num_done = 0
    for key, _ in todo():
        num_all += 1
        num_done += key in journal
    told = ""
    for line in journal:
        told = running(line)
    in_work: dict[int, Work] = {}

    def asked() -> Iterator[Request]:
        for place, (_, work) in enumerate(piece for piece in todo() if piece[0] not in journal):
            in_work[place] = work
            yield ask(work)

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        Speed(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[running]}"),
    )
    with Progress(*columns, transient=True, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=num_all, completed=num_done, running=told)
        for place, completions in generator.generate(asked()):
            lines = tell(in_work.pop(place), completions)
            journal.append(lines)
            for line in lines:
                told = running(line)
            progress.update(task, advance=1, running=told)
    journal.finish()
    return journal
