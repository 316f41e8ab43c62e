# SPDX-License-Identifier: Apache-2.0
"""Work in stages, in a folder that records what is finished: a killed run goes on there, but only with the same settings and code.

config.json has what determines the results, written before the first stage. stages.json has {"note", "seconds"} of each finished stage.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from critic_r1_verl import foreign
from critic_r1_verl._paths import PACKAGE
from critic_r1_verl.files import locked, read_object, write_json

CONFIG, FILE = "config.json", "stages.json"

_REMEDY = "remove the folder, or give another --out"
_NOT_DETERMINING = {"report", "gateway", "study"}
"""Parts of this package that no stage's result depends on: they show results, serve models, or run stages whose settings are recorded."""
_NUM_SHOWN = 3


def run(folder: Path, config: Mapping[str, Any], stages: Mapping[str, Callable[[], str]], *, again: str = "") -> None:
    """Run those of the stages, in order, that are not finished; each returns a note, and a line on stdout shows it.

    again: a stage that always runs. ValueError, which names the first differences, if the folder was made with another config; if other
    files are in it; and if another process works in it.
    """
    with locked(folder):
        _check(folder, config)
        done = finished(folder)
        if not again and done.keys() >= stages.keys():
            foreign.say(f"finished before: {'; '.join(each['note'] for each in done.values())}")
            return
        for number, (name, stage) in enumerate(stages.items(), 1):
            before = " (done before)" if name in done and name != again else ""
            if not before:
                start = time.monotonic()
                note = stage()
                done[name] = {"note": note, "seconds": round(time.monotonic() - start, 1)}
                write_json(folder / FILE, done)
            foreign.say(f"[{number}/{len(stages)}] {name:<16} {done[name]['seconds']:7.1f} s  {done[name]['note']}{before}")


def finished(folder: Path) -> dict[str, dict[str, Any]]:
    """The finished stages of a folder by name, {} if there are none. ValueError for a file that cannot be read."""
    file = folder / FILE
    return read_object(file, _REMEDY) if file.is_file() else {}


def code(*folders: Path) -> str:
    """12 hex digits that change with the code that determines results: that of this package and of more folders, of a checkout."""
    digest = hashlib.sha256()
    for root in (PACKAGE, *folders):
        for file in sorted(file for file in root.rglob("*") if file.suffix in (".py", ".txt", ".yaml")):
            where = file.relative_to(root)
            if root != PACKAGE or where.parts[0] not in _NOT_DETERMINING:
                digest.update(str(root.name / where).encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _check(folder: Path, config: Mapping[str, Any]) -> None:
    """Record the config of an empty folder, and compare it with that of any other."""
    file, now = folder / CONFIG, json.loads(json.dumps(config))
    if not file.is_file():
        if others := sorted(each.name for each in folder.iterdir() if each.name != ".lock"):
            raise ValueError(f"{folder}: it is not known how {others[0]} in it was made, for there is no {CONFIG}; {_REMEDY}")
        write_json(file, now)
    elif changed := differences(read_object(file, _REMEDY), now):
        more = f", and {len(changed) - _NUM_SHOWN} more" if len(changed) > _NUM_SHOWN else ""
        raise ValueError(f"{folder} was made with other settings or code: {', '.join(changed[:_NUM_SHOWN])}{more}; {_REMEDY}")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two JSON objects, as "dotted.key was VALUE, now VALUE"."""
    first, second = (dict(_leaves(content)) for content in (before, now))
    keys = [key for key in first | second if first.get(key) != second.get(key)]
    return [f"{key} was {json.dumps(first.get(key)):.80}, now {json.dumps(second.get(key)):.80}" for key in keys]


def _leaves(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, Mapping) and content:
        for name, value in content.items():
            yield from _leaves(value, f"{key}.{name}" if key else name)
    else:
        yield key, content
