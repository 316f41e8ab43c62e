# SPDX-License-Identifier: Apache-2.0
"""A JSONL file that long work appends to as results arrive, and from which a killed run goes on."""

import json
from collections.abc import Callable, Iterable, Sequence
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
            for number, text in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
                try:
                    line = json.loads(text)
                    self.lines[key(line)] = line
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(f"{path}:{number}: not a line of this run ({error}); delete the file to start again") from error
            self._rewrite()

    def append(self, lines: Iterable[dict[str, Any]]) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            for line in lines:
                stream.write(json.dumps(line, ensure_ascii=True) + "\n")
                self.lines[self._key(line)] = line

    def finish(self) -> list[dict[str, Any]]:
        """Sort the file by key and return its lines: a resumed run ends with the same file as an undisturbed one."""
        self._rewrite()
        return list(self.lines.values())

    def _rewrite(self) -> None:
        self.lines = {key: self.lines[key] for key in sorted(self.lines)}
        with replacing(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line, ensure_ascii=True) + "\n" for line in self.lines.values()), encoding="utf-8")


def work_off(
    journal: Journal, todo: Sequence[tuple[Key, Work]], do: Callable[[list[Work]], Iterable[list[dict[str, Any]]]], batch: int, label: str
) -> list[dict[str, Any]]:
    """Do what the journal does not have yet, a batch at a time under a progress bar, and return all its lines, sorted."""
    from rich.progress import Progress

    journal.path.parent.mkdir(parents=True, exist_ok=True)
    open_work = [work for key, work in todo if key not in journal.lines]
    with Progress(transient=True) as progress:
        task = progress.add_task(label, total=len(todo), completed=len(todo) - len(open_work))
        for start in range(0, len(open_work), batch):
            part = open_work[start : start + batch]
            journal.append(line for lines in do(part) for line in lines)
            progress.advance(task, len(part))
    return journal.finish()
