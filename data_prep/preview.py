# SPDX-License-Identifier: Apache-2.0
"""Shows a row of each corpus as a build understands it, so that a file that is read wrongly is seen before it is built."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from critic_r1_verl.images import Limits
from critic_r1_verl.records import PairRecord, Record
from data_prep import sources, vocabulary
from data_prep.corpus import Skip
from data_prep.image_store import ImageStore
from data_prep.options import Corpus, Options
from data_prep.shards import convert_row
from data_prep.tables import Table

MAX_CHARS = 200
MAX_ROWS = 100
"""How many rows are looked at to find one that is not skipped."""
MAX_SKIPPED = 3
"""How many rows are named that are skipped before it."""


def dry_run(corpora: Sequence[Corpus], options: Options) -> Iterator[str]:
    """The lines that a build of these corpora would print first; nothing is written. ValueError as for a build."""
    with tempfile.TemporaryDirectory() as work:
        for corpus in corpora:
            files = sources.find(corpus.location, corpus.module, corpus.images, Path(work))
            sources.unpack(files[:1])
            yield from lines(corpus, files, options, Path(work))


def lines(corpus: Corpus, files: Sequence[sources.File], options: Options, work: Path) -> Iterator[str]:
    """The layout and the first usable row of the first file, which is unpacked; its pictures go under work. ValueError as for a build."""
    module, table = corpus.module, Table(files[0].path, corpus.columns)
    table.check_columns(module.COLUMNS, corpus.name)
    store = ImageStore(work, Limits(*options.pixels), files[0].images, options.allow_remote)
    name = f"{files[0].archive}: {unquote(files[0].path.name)}" if files[0].archive else str(files[0].path)
    more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
    yield f"{corpus.name}: {_line(name)}{more}, {len(table)} rows{' in the first' if more else ''}"
    skipped = 0
    for number, raw in enumerate(table.rows(0, MAX_ROWS)):
        if corpus.answers:
            raw = vocabulary.mapped(raw, module.LABEL, corpus.answers)
        for one in convert_row(module, raw, store, f"{corpus.name}: {files[0].path}: row {number}"):
            if isinstance(one, Skip):
                if (skipped := skipped + 1) <= MAX_SKIPPED:
                    yield f"  row {number} is skipped: {one.reason}{f': {one.spelling}' if one.spelling else ''}"
                continue
            if skipped > MAX_SKIPPED:
                yield f"  {skipped - MAX_SKIPPED} more are skipped"
            if hasattr(module, "layout") and not isinstance(raw, Skip):
                yield f"  layout: {module.layout(raw)}"
            yield f"  row {number} is read as"
            yield from _shown(one, store)
            return
    if skipped:
        yield f"  none of the first {min(len(table), MAX_ROWS)} rows can be used; {skipped} times something was skipped"


def _shown(record: Record, store: ImageStore) -> Iterator[str]:
    sizes = [store.sizes[image.sha256] for image in record.images]
    yield f"    images    {', '.join(f'{width} x {height}' for width, height in sizes) or 'none'}"
    yield f"    question  {_line(record.question)}"
    if not isinstance(record, PairRecord):
        yield f"    answer    {_line(record.answer)}"
        return
    names = {"1": ("better", "worse"), "2": ("worse", "better"), "tie": ("as good", "as good")}[record.preferred]
    for name, response in sorted(zip(names, (record.response_1, record.response_2), strict=True), key=lambda one: one[0] == "worse"):
        yield f"    {name:<9} {_line(response)}"


def _line(text: str) -> str:
    """The beginning of a text on one line."""
    shown = " ".join(text[:MAX_CHARS].split())
    return shown if len(text) <= MAX_CHARS else f"{shown} ... ({len(text)} characters)"
