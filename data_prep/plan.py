# SPDX-License-Identifier: Apache-2.0
"""The shards that a build converts, and whether the finished shards of an earlier, killed build can be used.

DIR/.build/plan.json states everything that the content of a shard depends on. Finished shards are kept while it stays the same.
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import critic_r1_verl
from critic_r1_verl import foreign
from critic_r1_verl.files import file_sha256
from critic_r1_verl.images import Limits
from critic_r1_verl.prompts import Template
from critic_r1_verl.tokens import Meter
from data_prep import corpora as converters
from data_prep import shards, sources, tables
from data_prep.options import Corpus, Options

SHARD_ROWS = 512


def plan(
    out: Path,
    work: Path,
    corpora: Sequence[Corpus],
    files: Mapping[str, Sequence[sources.File]],
    options: Options,
    limits: Limits,
    templates: Mapping[str, Template],
    meter: Meter | None,
) -> list[shards.Task]:
    """The shards to convert, corpus by corpus; files are the data files of each corpus by its name.

    Shards in `work` that were converted in another way are deleted. Raises SchemaError for a file that lacks a column, ValueError for a
    corpus without rows.
    """
    facts = {
        "version": critic_r1_verl.__version__,
        "converters": {corpus.name: converters.file_identity(corpus.converter) for corpus in corpora},
        "files": {name: [file.identity() for file in found] for name, found in files.items()},
        "columns": {corpus.name: dict(corpus.columns) for corpus in corpora},
        "answers": {corpus.name: dict(corpus.answers) for corpus in corpora},
        "limit": options.limit,
        "limits": asdict(limits),
        "remote": options.allow_remote,
        "templates": {kind: template.sha for kind, template in templates.items()},
        "meter": asdict(meter) if meter else None,
        "tokenizer": file_sha256(Path(meter.tokenizer_file)) if meter else None,
        "max_prompt_tokens": options.max_prompt_tokens,
        "shard_rows": SHARD_ROWS,
        "versions": versions(),
    }
    _keep_or_clear(work, json.dumps(facts, sort_keys=True))
    tasks = []
    for corpus in corpora:
        sources.unpack(files[corpus.name])
        for number, (file, start, stop) in enumerate(_ranges(corpus, files[corpus.name], options.limit)):
            tasks.append(
                shards.Task(
                    corpus=corpus.name,
                    converter=corpus.converter,
                    file=file,
                    columns=tuple(corpus.columns.items()),
                    answers=tuple(corpus.answers.items()),
                    start=start,
                    stop=stop,
                    out=out,
                    result=work / "shards" / f"{corpus.name}-{number:06d}.jsonl",
                    limits=limits,
                    allow_remote=options.allow_remote,
                    templates=templates,
                    meter=meter,
                    max_prompt_tokens=options.max_prompt_tokens,
                )
            )
    return tasks


def versions() -> dict[str, str]:
    """The versions of the libraries on which the bytes of a build depend."""
    return {name: version(name) for name in ("pillow", "pyarrow", "tokenizers", "torch", "transformers")}


def _keep_or_clear(work: Path, facts: str) -> None:
    """Delete what an earlier build left in `work` unless its plan states the same facts."""
    file = work / "plan.json"
    if file.is_file() and file.read_text(encoding="utf-8") == facts:
        return
    if file.is_file():
        foreign.say(f"{work}: left by a build of other data or with other flags; starting over", stderr=True)
        # The plan is deleted first, so that a build that is killed here does not resume from the remaining shards.
        file.unlink()
    shutil.rmtree(work / "shards", ignore_errors=True)
    shutil.rmtree(work / "unpacked", ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    file.write_text(facts, encoding="utf-8")


def _ranges(corpus: Corpus, files: Sequence[sources.File], limit: int | None) -> Iterator[tuple[sources.File, int, int]]:
    """(file, start, stop) of each shard, over the first `limit` rows of the corpus."""
    remaining, num_rows = math.inf if limit is None else limit, 0
    for file in files:
        table = tables.Table(file.path, corpus.columns)
        table.check_columns(corpus.module.COLUMNS, corpus.name)
        stop = int(min(len(table), remaining))
        for start in range(0, stop, SHARD_ROWS):
            yield file, start, min(start + SHARD_ROWS, stop)
        remaining -= stop
        num_rows += len(table)
    if not num_rows:
        raise ValueError(f"{corpus.name}: no row in {', '.join(str(file.path) for file in files[:3])}{' ...' if len(files) > 3 else ''}")
