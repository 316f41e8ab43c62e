# SPDX-License-Identifier: Apache-2.0
"""Files to which a long run appends its results as they arrive, and from which it resumes after it was killed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Generic, TypeVar

from critic_r1_verl import foreign, lines
from critic_r1_verl.engines.base import Completion, Engine, Request
from critic_r1_verl.files import replacing
from critic_r1_verl.lines import AnyLine, Key

Task = TypeVar("Task")

MAX_REFUSED = 0.1
"""The share of requests that a server may refuse by default."""
HOPELESS = 20
"""A run ends as soon as so many of its first requests were refused, and no other was answered."""


class Journal(Generic[AnyLine]):
    """The lines of one file by their unique keys. Only the byte offset of each line is held in memory.

    A last line without a newline was cut short when the run was killed. It is deleted from the file, so that it is produced again.
    ValueError names file, line and key of a malformed line.
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
        """The lines in file order, read again at each iteration. If a key was written twice, only its last line is yielded."""
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
        """Append lines to the file before returning. OSError names the file, also when the disk is full."""
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
        """Sort the file by key, so that a resumed run and an uninterrupted one end with the same bytes."""
        starts: dict[Key, int] = {}
        with self.path.open("a+b") as stream, replacing(self.path) as temporary, temporary.open("wb") as sorted_stream:
            for key in sorted(self._start):
                stream.seek(self._start[key])
                starts[key] = sorted_stream.tell()
                sorted_stream.write(stream.readline())
        self._start = starts


def run_remaining(
    journal: Journal[AnyLine],
    tasks: Callable[[], Iterable[tuple[Key, Task]]],
    engine: Engine,
    to_request: Callable[[Task], Request],
    to_lines: Callable[[Task, Sequence[Completion]], Sequence[AnyLine]],
    label: str,
    status: Callable[[AnyLine], str] = lambda line: "",
    unit: tuple[str, int] = ("", 1),
    max_refused: float = MAX_REFUSED,
    then: Callable[[Sequence[AnyLine]], Iterable[tuple[Key, Task]]] = lambda new: (),
) -> Journal[AnyLine]:
    """Run the tasks whose lines the journal lacks, with a progress bar, append their lines, and return the journal, sorted by key.

    tasks() returns an iterable of all tasks, each with the key of its last line; it is called twice. to_request() makes the request of a
    task, and to_lines() makes its lines from the completions. status() is called with every line of the journal, old and new, and returns
    the text beside the progress bar. unit is the unit of the speed that the bar shows: its name, and the number of tasks in one unit.
    then() is called with the new lines of each task, and returns the tasks that they make possible; these run before the remaining ones.

    The lines of a request that was refused are appended at the end, if the share of refused lines, old and new, is at most max_refused;
    otherwise ValueError says what the server said, and they are asked for again by the next run.
    """
    from rich import progress

    class Speed(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Any:
            return foreign.styled(f"{task.speed / unit[1]:.2f} {unit[0]}/s" if task.speed else "")

    journal.path.parent.mkdir(parents=True, exist_ok=True)
    num_all = num_done = 0
    for key, _ in tasks():
        num_all += 1
        num_done += key in journal
    shown = ""
    num_lines = num_refused = 0
    for line in journal:
        shown = status(line)
        num_lines += 1
        num_refused += _is_refused(line)
    held: list[AnyLine] = []
    in_flight: dict[int, Task] = {}

    remaining = (keyed for keyed in tasks() if keyed[0] not in journal)
    possible: deque[tuple[Key, Task]] = deque()
    places = count()

    class Requests(Iterator[Request]):
        def __next__(self) -> Request:
            _, task = possible.popleft() if possible else next(remaining)
            in_flight[next(places)] = task
            return to_request(task)

    columns = (
        foreign.column("{task.description}"),
        progress.BarColumn(bar_width=20),
        progress.MofNCompleteColumn(),
        Speed(),
        progress.TimeRemainingColumn(),
        foreign.column("{task.fields[status]}"),
    )
    with progress.Progress(*columns, transient=True, console=foreign.console(stderr=True)) as bar:
        bar_id = bar.add_task(label, total=num_all, completed=num_done, status=shown)
        for index, completions in engine.generate(Requests()):
            new = to_lines(in_flight.pop(index), completions)
            followers = list(then(new))
            possible += followers
            num_all += len(followers)
            num_lines += len(new)
            if new_refused := sum(map(_is_refused, new)):
                held += new
                num_refused += new_refused
                if num_refused == num_lines >= HOPELESS and max_refused < 1:
                    break
            else:
                journal.append(new)
            for line in new:
                shown = status(line)
            bar.update(bar_id, total=num_all, advance=1, status=shown)
    if held and num_refused > max_refused * num_lines:
        first: Any = next(filter(_is_refused, held))
        raise ValueError(
            f"{engine.name}: {num_refused} of {num_lines} requests were refused, which is more than {100 * max_refused:g} % "
            f"(--max-refused), for example: {first.text}"
        )
    journal.append(held)
    journal.finish()
    return journal


def _is_refused(line: Any) -> bool:
    return line.status == "refused"
