# SPDX-License-Identifier: Apache-2.0
"""A file of lines that long work appends to as results arrive, and from which a killed run resumes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from critic_r1_verl import lines
from critic_r1_verl.engines.base import Completion, Engine, Request
from critic_r1_verl.files import replacing
from critic_r1_verl.lines import AnyLine, Key

Work = TypeVar("Work")


class Journal(Generic[AnyLine]):
    """The lines of one file, each under its unique key. The lines stay in the file; memory holds only where each of them begins.

    A last line without its newline was cut short by a kill: it is dropped, and its work is done again.
    """

    def __init__(self, path: Path, cls: type[AnyLine]) -> None:
        self.path = path
        self.cls: type[AnyLine] = cls
        self._start: dict[Key, int] = {}
        if path.is_file():
            with path.open("r+b") as stream:
                start = 0
                for number, text in enumerate(stream, 1):
                    if not text.endswith(b"\n"):
                        stream.truncate(start)
                        break
                    try:
                        self._start[lines.decode(text, cls, f"{path}:{number}").key] = start
                    except ValueError as error:
                        raise ValueError(f"{error}; delete the file to start again") from error
                    start += len(text)

    def __contains__(self, key: Key) -> bool:
        return key in self._start

    def __iter__(self) -> Iterator[AnyLine]:
        """The lines in the order of the file, read anew at each iteration. Of a key that was written twice only the last line counts."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as stream:
            start = 0
            for number, text in enumerate(stream, 1):
                line = lines.decode(text, self.cls, f"{self.path}:{number}")
                if self._start[line.key] == start:
                    yield line
                start += len(text)

    def append(self, new: Iterable[AnyLine]) -> None:
        """Write lines; they are in the file when this returns. OSError names the file, also where the disk is full."""
        texts = {line.key: lines.encode(line) for line in new}
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
        """Sort the file by key, so that a resumed run ends with the same bytes as an undisturbed one."""
        starts: dict[Key, int] = {}
        with self.path.open("a+b") as stream, replacing(self.path) as temporary, temporary.open("wb") as sorted_stream:
            for key in sorted(self._start):
                stream.seek(self._start[key])
                starts[key] = sorted_stream.tell()
                sorted_stream.write(stream.readline())
        self._start = starts


def work_off(
    journal: Journal[AnyLine],
    todo: Callable[[], Iterable[tuple[Key, Work]]],
    engine: Engine,
    ask: Callable[[Work], Request],
    tell: Callable[[Work, Sequence[Completion]], Sequence[AnyLine]],
    label: str,
    running: Callable[[AnyLine], str] = lambda line: "",
    unit: tuple[str, int] = ("", 1),
) -> Journal[AnyLine]:
    """Do the work that the journal does not hold yet, under a progress bar, and return the journal, sorted.

    todo() gives the pieces of work, anew at each call, each with the key of its last line. ask() makes the request of a piece, tell() its
    lines from the completions. running() is called with every line and returns what the bar shows beside it. The bar's speed counts
    `unit`: its name, and how many pieces of work make one.
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
    shown = ""
    for line in journal:
        shown = running(line)
    in_work: dict[int, Work] = {}

    def requests() -> Iterator[Request]:
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
        task = progress.add_task(label, total=num_all, completed=num_done, running=shown)
        for place, completions in engine.generate(requests()):
            new = tell(in_work.pop(place), completions)
            journal.append(new)
            for line in new:
                shown = running(line)
            progress.update(task, advance=1, running=shown)
    journal.finish()
    return journal
