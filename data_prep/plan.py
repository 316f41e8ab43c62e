# SPDX-License-Identifier: Apache-2.0
"""The shards that a build has to convert, and whether those that an earlier, killed build left can be used.

DIR/.build/plan.json states everything that the content of a shard depends on. Finished shards are kept while it stays the same.
"""

import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import critic_r1_verl
from critic_r1_verl.files import file_sha256
from critic_r1_verl.images import Limits
from critic_r1_verl.prompts import Template
from critic_r1_verl.tokens import Meter
from data_prep import corpora as converters
from data_prep import shards, sources, tables
from data_prep.corpus import SchemaError
from data_prep.options import Corpus, Options

SHARD_ROWS = 512


def plan(
    out: Path,
    work: Path,
    corpora: Sequence[Corpus],
    options: Options,
    limits: Limits,
    templates: Mapping[str, Template],
    meter: Meter | None,
) -> list[shards.Task]:
    """The shards to convert, corpus by corpus. Shards in `work` that were converted in another way are deleted."""
    found = {corpus.name: _find(corpus, work) for corpus in corpora}
    facts = {
        "version": critic_r1_verl.__version__,
        "converters": {corpus.name: converters.file_identity(corpus.converter) for corpus in corpora},
        "files": {name: [file.identity() for file in files] for name, files in found.items()},
        "columns": {corpus.name: dict(corpus.columns) for corpus in corpora},
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
        sources.unpack(found[corpus.name])
        for number, (file, start, stop) in enumerate(_ranges(corpus, found[corpus.name], options.limit)):
            tasks.append(
                shards.Task(
                    corpus=corpus.name,
                    converter=corpus.converter,
                    file=file,
                    columns=tuple(corpus.columns.items()),
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
    """Versions of the libraries on which the bytes of a build depend."""
    from importlib.metadata import version

    return {name: version(name) for name in ("pillow", "pyarrow", "tokenizers", "torch", "transformers")}


def _keep_or_clear(work: Path, facts: str) -> None:
    """Delete what an earlier build left in `work` unless its plan states the same facts."""
    file = work / "plan.json"
    if file.is_file() and file.read_text(encoding="utf-8") == facts:
        return
    if file.is_file():
        print(f"{work}: left by a build of other data or with other flags; starting over", file=sys.stderr)
        # The plan goes first, so that a build killed here does not take up the rest.
        file.unlink()
    shutil.rmtree(work / "shards", ignore_errors=True)
    shutil.rmtree(work / "unpacked", ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    file.write_text(facts, encoding="utf-8")


def _find(corpus: Corpus, work: Path) -> list[sources.File]:
    return sources.find(corpus.location, corpus.module, corpus.images, work / "unpacked" / corpus.name)


def _ranges(corpus: Corpus, files: Sequence[sources.File], limit: int | None) -> Iterator[tuple[sources.File, int, int]]:
    """(file, start, stop) of each shard; SchemaError for a file that lacks a column, ValueError for files without any row."""
    left, num_rows = math.inf if limit is None else limit, 0
    needed = corpus.module.COLUMNS
    for file in files:
        table = tables.Table(file.path, corpus.columns)
        if len(table) and (missing := sorted(needed - table.columns)):
            raise SchemaError(
                f"{corpus.name}: {file.path}: no column {missing[0]!r}; expected {', '.join(sorted(needed))}; "
                f"found {', '.join(sorted(table.columns))}"
            )
        for start in range(0, int(min(len(table), left)), SHARD_ROWS):
            yield file, start, int(min(start + SHARD_ROWS, len(table), left))
        left -= min(len(table), left)
        num_rows += len(table)
    if not num_rows:
        raise ValueError(f"{corpus.name}: no row in {', '.join(str(file.path) for file in files[:3])}{' ...' if len(files) > 3 else ''}")
