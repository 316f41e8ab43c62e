# SPDX-License-Identifier: Apache-2.0
"""From corpora to a data folder: the rows of each split, records.jsonl, images/ and, written last, manifest.json.

Raw rows are converted in shards (shards.py). They are kept in DIR/.build until the build ends, so that a killed build can resume. The merge
(merge.py) holds only a key of each record in memory. It drops duplicates and contradictions first, then ties and records beyond a quota
(choice.py), then records that are in a benchmark, and divides the rest into splits that share no image (splits.py). Every choice is by hash
and seed, so the same input gives the same bytes with any number of workers.
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import critic_r1_verl
from critic_r1_verl import foreign, prompts, rows, tokens
from critic_r1_verl.data_folder import FILES, MANIFEST, RECORDS
from critic_r1_verl.files import file_sha256, locked, remove_temporaries, replacing, write_json
from critic_r1_verl.images import Limits
from critic_r1_verl.records import ORDERS, SPLITS
from data_prep import contamination, corpora, preview, shards, vocabulary, writing
from data_prep.choice import check, choose
from data_prep.image_store import remove_unused
from data_prep.merge import Key, drop, read_keys, read_records
from data_prep.options import Corpus, Options
from data_prep.plan import plan, versions
from data_prep.sources import File, find
from data_prep.splits import split
from data_prep.workers import convert_all


def build(out: Path, given: Sequence[Corpus], options: Options) -> dict[str, Any]:
    """Write a data folder and return its manifest.

    ValueError names the file and the row that stopped the build, and the remedy; it is a SchemaError if a row or a table does not follow
    the documented schema. If the build fails before it converts a row, a folder that it created is removed.
    """
    names = [corpus.name for corpus in given]
    if len(set(names)) < len(names):
        raise ValueError("a corpus is given twice; put its files into one folder and give that folder")
    check(given, options)
    work, is_new = out / ".build", not out.exists()
    # A missing file is reported at once, before the processor is loaded.
    files = {corpus.name: find(corpus.location, corpus.module, corpus.images, work / "unpacked" / corpus.name) for corpus in given}
    with locked(out):
        remove_temporaries(work, below=True)
        try:
            return _build(out, work, given, files, options)
        except Exception:
            if is_new and not (work / "shards").exists():
                shutil.rmtree(out)
            raise


def _build(out: Path, work: Path, given: Sequence[Corpus], files: Mapping[str, Sequence[File]], options: Options) -> dict[str, Any]:
    templates = {"pair": prompts.load(options.template), "question": prompts.load(options.question_template)}
    processor = tokens.load_processor(options.base) if options.base else None
    meter = tokens.meter(processor, work) if processor else None
    limits = Limits(*options.pixels, meter.limits.factor) if meter else Limits(*options.pixels)
    tasks = plan(out, work, given, files, options, limits, templates, meter)
    # Benchmarks are read before the rows are converted, so that an unreadable one stops the build early.
    items = [item for benchmark in options.decontaminate for item in contamination.load(benchmark, work / "benchmarks", limits)]
    for corpus in given:
        for line in preview.lines(corpus, files[corpus.name], options, out):
            foreign.say(line, stderr=True)
    (out / MANIFEST).unlink(missing_ok=True)
    by_task = convert_all(tasks, options.num_workers)
    counts = [_total(found for task, found in zip(tasks, by_task, strict=True) if task.corpus == corpus.name) for corpus in given]
    for corpus, count in zip(given, counts, strict=True):
        vocabulary.check(corpus.name, count, options.max_unread)

    keys = read_keys(tasks, [corpus.name for corpus in given], counts)
    keys, ties = choose(keys, given, options, counts)
    keys, matches = _decontaminate(keys, tasks, out, items, limits, counts)
    if not keys:
        total = _total(counts)
        reasons = ", ".join(f"{number} {reason}" for reason, number in total["skipped"].most_common())
        raise ValueError(f"none of {total['read']} records is left: {reasons or 'nothing was read'}")
    keys_of = split(keys, options, counts)
    with replacing(out / RECORDS) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        written = {
            name: writing.write_split(out, name, _entries(keys_of[name], tasks, options.both_orders), templates, stream) for name in SPLITS
        }
    num_checked = tokens.check(meter, processor, written["train"].sample, out) if meter else 0
    images = {path: sha for summary in written.values() for path, sha in summary.images.items()}
    remove_unused(out, {Path(path).name for path in images})
    manifest = {
        "version": critic_r1_verl.__version__,
        "seed": options.seed,
        "limit": options.limit,
        "both_orders": options.both_orders,
        "pixels": list(options.pixels),
        "corpora": {corpus.name: _provenance(corpus, count) for corpus, count in zip(given, counts, strict=True)},
        "templates": {kind: asdict(template) for kind, template in templates.items()},
        "splits": {name: summary.counts() for name, summary in written.items()},
        "preferred_first": writing.preferred_first(written),
        "ties": ties,
        "paid_in_one_notation": sum(summary.num_one_notation for summary in written.values()),
        "lengths": {
            "tokenizer": options.base,
            "max_prompt_tokens": options.max_prompt_tokens if meter else None,
            **writing.distribution([number for summary in written.values() for number in summary.tokens]),
            "dropped": sum(count["skipped"][shards.TOO_LONG] for count in counts),
            "checked": num_checked,
        },
        "files": {name: file_sha256(out / name) for name in FILES},
        "images": writing.image_list(images.values()),
        "decontamination": {"benchmarks": list(options.decontaminate), "matches": matches},
        "versions": versions(),
    }
    write_json(out / MANIFEST, manifest)
    shutil.rmtree(work)
    return manifest


def _total(counts: Iterable[shards.Counts]) -> shards.Counts:
    counts = list(counts)
    skipped: Counter[str] = Counter()
    for count in counts:
        skipped.update(count["skipped"])
    total = {"read": sum(count["read"] for count in counts), "kept": sum(count["kept"] for count in counts), "skipped": skipped}
    for key in ("read_as", "unread", "unread_prompts", "layouts"):
        if noted := [count[key] for count in counts if key in count]:
            total[key] = vocabulary.total(noted)
    if first := [count["first_unread_prompt"] for count in counts if "first_unread_prompt" in count]:
        total["first_unread_prompt"] = first[0]
    return total


def _decontaminate(
    keys: list[Key],
    tasks: Sequence[shards.Task],
    out: Path,
    items: Sequence[contamination.Item],
    limits: Limits,
    counts: Sequence[shards.Counts],
) -> tuple[list[Key], list[dict[str, Any]]]:
    """The keys of the records that are in no benchmark, and the matches of the other records."""
    if not items:
        return keys, []
    matches = contamination.find((record for record, _ in read_records(keys, tasks)), out, items, limits)
    drop(counts, (key for key in keys if key.record_id in matches), "in a benchmark")
    kept = [key for key in keys if key.record_id not in matches]
    return kept, [asdict(matches[record_id]) for record_id in sorted(matches)]


def _entries(keys: Sequence[Key], tasks: Sequence[shards.Task], both_orders: bool) -> Iterator[writing.Entry]:
    """The records of one split, each with the orders in which it is shown and the tokens of its prompt."""
    orders = iter(rows.balanced_orders([key for key in keys if key.kind == "pair"]))
    for key, (record, num_tokens) in zip(keys, read_records(keys, tasks), strict=True):
        if key.kind == "question":
            yield record, ("",), num_tokens
        else:
            order = next(orders)
            yield record, ORDERS if both_orders else (order,), num_tokens


def _provenance(corpus: Corpus, counts: shards.Counts) -> Mapping[str, Any]:
    module = corpus.module
    return {
        "converter": corpora.file_identity(corpus.converter),
        "location": corpus.location or module.HUB,
        # The revision of local files is not known.
        "revision": module.REVISION if corpus.location in ("", module.HUB) else "",
        "licence": module.LICENCE,
        "grade": module.GRADE,
        "answers": dict(sorted(corpus.answers.items())),
        "quota": corpus.quota,
        "weight": corpus.weight,
        "counts": {**counts, "skipped": dict(sorted(counts["skipped"].items()))},
    }
