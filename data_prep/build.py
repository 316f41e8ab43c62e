# SPDX-License-Identifier: Apache-2.0
"""Corpora -> shards of records -> rows: train.parquet, val.parquet, images/ and, last, manifest.json.

Raw rows are converted in shards (shards.py), which a killed build finds again in DIR/.build. The merge keeps a Key of each record in memory
and no record: duplicates and contradictions go first, then ties as told, what is beyond a quota, and what a benchmark holds; the rest is
split so that no image is on both sides. Every choice is by hash and seed: the same input gives the same bytes with any number of workers.
"""

import hashlib
import json
import math
import shutil
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import critic_r1_verl
from critic_r1_verl import prompts, rows, tokens
from critic_r1_verl.images import Limits
from critic_r1_verl.records import Record
from data_prep import contamination, shards, sources, writing
from data_prep.corpus import SchemaError
from data_prep.image_store import ImageStore, remove_unused

SHARD_ROWS = 512
DEFAULT_VAL = 64
SPLITS = ("train", "val")

Beside = Callable[[ImageStore], writing.Companions]
"""Writes what a build has beside its rows, images through the store, before the manifest is written."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """One --corpus: where it lies ("" for its own hub id), where its images lie if elsewhere, and how much of it to take.

    names: {column of the file: column the module expects}. quota is the largest number of records, weight the share beside other weights.
    drawn: the file is not the user's, the build drew it.
    """

    name: str
    location: str = ""
    images: Path | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    quota: int | None = None
    weight: float | None = None
    drawn: bool = False


@dataclass(frozen=True, kw_only=True)
class Options:
    """What holds for all corpora.

    pixels: limits (least, most) of a stored image. limit: raw rows of each corpus. val: records held out (default: 64, at most a tenth).
    base: None leaves lengths unmeasured.
    ties: "keep", "drop", or the largest share of a corpus's records that may be ties.
    """

    pixels: tuple[int, int]
    seed: int = 0
    limit: int | None = None
    val: int | None = None
    both_orders: bool = False
    ties: Literal["keep", "drop"] | float = "keep"
    decontaminate: Sequence[str] = ()
    base: str | None = None
    max_prompt_tokens: int = 0
    allow_remote: bool = False
    critic_template: str = "critic"
    policy_template: str = "policy"
    num_workers: int = 1


@dataclass(slots=True, eq=False)
class Key:
    """A record in the merge: its id, its label as stored, and where its line is. group numbers a set of records that share images."""

    pair_id: str
    preferred: str
    style: str
    corpus: int
    shard: int
    offset: int
    group: int


def build(out: Path, corpora: Sequence[Corpus], options: Options, beside: Beside | None = None) -> dict[str, Any]:
    """Write out/{train,val}.parquet, images/ and manifest.json, and return the manifest.

    ValueError (SchemaError for a row or table that is not in the documented schema) says which file and row stopped it, and the remedy.
    """
    if len({corpus.name for corpus in corpora}) < len(corpora):
        raise ValueError("a corpus is given twice; put its files into one folder and give that")
    work = out / ".build"
    with writing.alone(out, work):
        return _build(out, work, corpora, options, beside)


def _build(out: Path, work: Path, corpora: Sequence[Corpus], options: Options, beside: Beside | None) -> dict[str, Any]:
    processor = tokens.load_processor(options.base) if options.base else None
    meter = tokens.meter(processor, work) if processor else None
    limits = Limits(*options.pixels, meter.limits.factor) if meter else Limits(*options.pixels)
    tasks = _plan(out, work, corpora, options, limits, meter)
    # Before the rows are converted, which takes long: a benchmark that cannot be read stops the build.
    items = [item for benchmark in options.decontaminate for item in contamination.load(benchmark, work / "benchmarks", limits)]
    (out / "manifest.json").unlink(missing_ok=True)
    by_shard = _run(tasks, options.num_workers)
    counts = [_total(by_shard[task.result] for task in tasks if task.corpus == corpus.name) for corpus in corpora]

    keys = _read_keys(tasks, [corpus.name for corpus in corpora], counts)
    keys, ties = _choose(keys, corpora, options, counts)
    keys, matches = _decontaminate(keys, tasks, out, items, limits, counts)
    if len(keys) < 2:
        total = _total(counts)
        reasons = ", ".join(f"{number} {reason}" for reason, number in total["skipped"].most_common())
        raise ValueError(f"{len(keys)} of {total['read']} records are left, too few for two splits: {reasons or 'nothing was read'}")
    splits = _split(keys, options)
    critic, policy = prompts.load(options.critic_template), prompts.load(options.policy_template)
    written = {split: writing.write_rows(out, split, _entries(splits[split], tasks, options), critic, policy) for split in SPLITS}
    num_checked = tokens.check(meter, processor, written["train"].sample, out) if meter else 0
    companions = beside(ImageStore(out, limits)) if beside else writing.Companions()

    summaries = list(written.values())
    images = {**companions.images, **{sha: path for summary in summaries for path, sha in summary.images.items()}}
    remove_unused(out, {Path(path).name for path in images.values()})
    manifest = {
        "version": critic_r1_verl.__version__,
        "seed": options.seed,
        "limit": options.limit,
        "both_orders": options.both_orders,
        "pixels": list(options.pixels),
        "corpora": {corpus.name: _provenance(corpus, count) for corpus, count in zip(corpora, counts, strict=True)},
        "templates": {template.name: template.sha for template in (critic, policy)},
        "preferred_first": writing.preferred_first(written),
        "ties": ties,
        "lengths": {
            "tokenizer": options.base,
            "max_prompt_tokens": options.max_prompt_tokens if meter else None,
            **writing.distribution([number for summary in summaries for number in summary.tokens]),
            "dropped": sum(count["skipped"][shards.TOO_LONG] for count in counts),
            "checked": num_checked,
        },
        "splits": {split: summary.counts() for split, summary in written.items()},
        "files": {name: writing.file_sha(out / name) for name in (*(f"{split}.parquet" for split in SPLITS), *companions.files)},
        "images": writing.image_list(images),
        "decontamination": {"benchmarks": list(options.decontaminate), "matches": matches},
        "versions": writing.versions(),
        **companions.facts,
    }
    rows.write_manifest(out / "manifest.json", manifest)
    shutil.rmtree(work)
    return manifest


def _plan(
    out: Path, work: Path, corpora: Sequence[Corpus], options: Options, limits: Limits, meter: tokens.Meter | None
) -> list[shards.Task]:
    """The shards to convert. What an earlier build left in work stays if it was converted in the same way, else it goes."""
    found = {corpus.name: _find(corpus, work) for corpus in corpora}
    critic, policy = prompts.load(options.critic_template), prompts.load(options.policy_template)
    facts = {
        "version": critic_r1_verl.__version__,
        "files": {name: [file.identity() for file in files] for name, files in found.items()},
        "names": {corpus.name: dict(corpus.names) for corpus in corpora},
        "limit": options.limit,
        "limits": asdict(limits),
        "remote": options.allow_remote,
        "templates": [critic.sha, policy.sha],
        "meter": asdict(meter) if meter else None,
        "tokenizer": writing.file_sha(Path(meter.tokenizer_file)) if meter else None,
        "max_prompt_tokens": options.max_prompt_tokens,
        "shard_rows": SHARD_ROWS,
        "versions": writing.versions(),
    }
    text, plan = json.dumps(facts, sort_keys=True), work / "plan.json"
    if plan.is_file() and plan.read_text(encoding="utf-8") != text:
        print(f"{work}: left by a build of other data or with other flags; starting over", file=sys.stderr)
        plan.unlink()
    if not plan.is_file():
        shutil.rmtree(work / "shards", ignore_errors=True)
        shutil.rmtree(work / "unpacked", ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
        plan.write_text(text, encoding="utf-8")
    tasks = []
    for corpus in corpora:
        sources.unpack(found[corpus.name])
        names = tuple(corpus.names.items())
        for number, (file, start, stop) in enumerate(_ranges(corpus, found[corpus.name], options.limit)):
            tasks.append(
                shards.Task(
                    corpus=corpus.name,
                    file=file,
                    names=names,
                    start=start,
                    stop=stop,
                    out=out,
                    result=work / "shards" / f"{corpus.name}-{number:06d}.jsonl",
                    limits=limits,
                    allow_remote=options.allow_remote,
                    critic=critic,
                    policy=policy,
                    meter=meter,
                    max_prompt_tokens=options.max_prompt_tokens,
                )
            )
    return tasks


def _find(corpus: Corpus, work: Path) -> list[sources.File]:
    return sources.find(corpus.location, shards.corpus_module(corpus.name), corpus.images, work / "unpacked" / corpus.name)


def _ranges(corpus: Corpus, files: Sequence[sources.File], limit: int | None) -> Iterator[tuple[sources.File, int, int]]:
    """(file, start, stop) of each shard; SchemaError for a file that lacks a column, ValueError for files without any row."""
    left, num_rows = math.inf if limit is None else limit, 0
    needed = shards.corpus_module(corpus.name).COLUMNS
    for file in files:
        table = sources.Table(file.path, corpus.names)
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


def _run(tasks: Sequence[shards.Task], num_workers: int) -> dict[Path, shards.Counts]:
    """The counts of every shard, by its file; conversion runs in num_workers processes, or in this one if that is 1."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if done := sum(task.result.exists() for task in tasks):
        print(f"resuming: {done} of {len(tasks)} shards are there", file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("converting", total=sum(task.stop - task.start for task in tasks))
        counts = {}

        def note(task: shards.Task, result: shards.Counts) -> None:
            counts[task.result] = result
            progress.advance(bar, task.stop - task.start)

        if num_workers == 1:
            for task in tasks:
                note(task, shards.convert_shard(task))
            return counts
        with ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent) as pool:
            futures = {pool.submit(shards.convert_shard, task): task for task in tasks}
            try:
                for future in as_completed(futures):
                    note(futures[future], future.result())
            except BrokenProcessPool as error:
                raise ValueError("a worker was killed, likely for want of memory; run the same command with fewer --num-workers") from error
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return counts


def _end_with_parent() -> None:
    """A worker of a killed build would wait for work for ever."""
    import multiprocessing
    import os
    import threading

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _total(counts: Iterable[shards.Counts]) -> shards.Counts:
    counts = list(counts)
    skipped: Counter[str] = Counter()
    for count in counts:
        skipped.update(count["skipped"])
    return {"read": sum(count["read"] for count in counts), "kept": sum(count["kept"] for count in counts), "skipped": skipped}


def _drop(counts: Sequence[shards.Counts], keys: Iterable[Key], reason: str) -> None:
    """Move records from kept to skipped."""
    for key in keys:
        counts[key.corpus]["kept"] -= 1
        counts[key.corpus]["skipped"][reason] += 1


def _read_keys(tasks: Sequence[shards.Task], names: Sequence[str], counts: Sequence[shards.Counts]) -> list[Key]:
    """The keys of all distinct records; of records that contradict each other none stays."""
    first: dict[str, tuple[Key, str]] = {}
    duplicates: list[Key] = []
    contradicting: list[Key] = []
    groups = _Groups()
    for shard, task in enumerate(tasks):
        corpus = names.index(task.corpus)
        for offset, line in shards.read_lines(task.result):
            record, label = line["record"], sys.intern(line["preferred"])
            shared = [image["sha256"] for image in record["images"]] + record["group"].split("+")
            key = Key(
                pair_id=line["pair_id"],
                preferred=sys.intern(record.get("preferred", "")),
                style=sys.intern(line["style"]),
                corpus=corpus,
                shard=shard,
                offset=offset,
                group=groups.join(shared),
            )
            known = first.setdefault(key.pair_id, (key, label))
            if known[0] is not key:
                (duplicates if known[1] == label else contradicting).append(key)
    contradicted = {key.pair_id for key in contradicting}
    contradicting += [first.pop(pair_id)[0] for pair_id in sorted(contradicted)]
    _drop(counts, duplicates, "duplicate")
    _drop(counts, contradicting, "contradiction")
    keys = [key for key, _ in first.values()]
    for key in keys:
        key.group = groups.find(key.group)
    return keys


class _Groups:
    """Sets of things that are shared (images, groups): things of one record are in one set."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._parents = array("L")

    def join(self, things: Iterable[str]) -> int:
        """Join the sets of these things, and return a number in it, for find()."""
        first = None
        for thing in things:
            number = self._numbers.setdefault(hashlib.sha256(thing.encode()).digest()[:12], len(self._parents))
            if number == len(self._parents):
                self._parents.append(number)
            root = self.find(number)
            first = root if first is None else first
            self._parents[root] = first
        assert first is not None, "a record has an image"
        return first

    def find(self, number: int) -> int:
        """The number that stands for the set."""
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number


def _rank(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}:{text}".encode()).digest()


def _choose(
    keys: list[Key], corpora: Sequence[Corpus], options: Options, counts: Sequence[shards.Counts]
) -> tuple[list[Key], dict[str, Any]]:
    """The keys that ties policy, quotas and weights leave, in the order of the corpora, and what became of ties.

    Ties go first, and what is left of them keeps its share under a quota.
    """
    by_corpus: list[tuple[list[Key], list[Key]]] = [([], []) for _ in corpora]
    for key in keys:
        by_corpus[key.corpus][key.preferred == "tie"].append(key)
    dropped_ties = 0
    for others, ties in by_corpus:
        ties.sort(key=lambda key: _rank(options.seed, key.pair_id))
        allowed = _allowed_ties(len(others), len(ties), options.ties)
        _drop(counts, ties[allowed:], "tie")
        dropped_ties += len(ties) - allowed
        del ties[allowed:]
    quotas = _quotas(corpora, [len(others) + len(ties) for others, ties in by_corpus])
    chosen = []
    for (others, ties), quota in zip(by_corpus, quotas, strict=True):
        if quota < len(others) + len(ties):
            num_ties = quota * len(ties) // (len(others) + len(ties))
            others.sort(key=lambda key: _rank(options.seed, key.pair_id))
            _drop(counts, others[quota - num_ties :] + ties[num_ties:], "beyond the quota")
            del others[quota - num_ties :], ties[num_ties:]
        chosen += others + ties
    chosen.sort(key=lambda key: (key.shard, key.offset))
    num_ties = sum(key.preferred == "tie" for key in chosen)
    return chosen, {"policy": options.ties, "kept": num_ties, "dropped": dropped_ties}


def _allowed_ties(num_others: int, num_ties: int, policy: Literal["keep", "drop"] | float) -> int:
    if policy == "keep":
        return num_ties
    if policy == "drop":
        return 0
    if not 0 <= policy < 1:
        raise ValueError(f"--ties {policy}: give keep, drop, or a share from 0 to below 1")
    return min(num_ties, math.floor(num_others * policy / (1 - policy) + 1e-9))


def _quotas(corpora: Sequence[Corpus], available: Sequence[int]) -> list[int]:
    """How many records of each corpus to take: its quota, or as many as the weights allow without one corpus running out."""
    weights = [corpus.weight for corpus in corpora]
    if all(weight is None for weight in weights):
        return [number if corpus.quota is None else corpus.quota for corpus, number in zip(corpora, available, strict=True)]
    known = [weight for weight in weights if weight is not None and weight > 0]
    if len(known) < len(weights) or any(corpus.quota is not None for corpus in corpora):
        raise ValueError("--weight: give every corpus a weight above 0 and none a quota, or quotas alone")
    scale = min(number / weight for number, weight in zip(available, known, strict=True))
    return [math.floor(weight * scale + 1e-9) for weight in known]


def _decontaminate(
    keys: list[Key],
    tasks: Sequence[shards.Task],
    out: Path,
    items: Sequence[contamination.Item],
    limits: Limits,
    counts: Sequence[shards.Counts],
) -> tuple[list[Key], list[dict[str, Any]]]:
    """The keys whose records are in no benchmark, and the matches of the others."""
    if not items:
        return keys, []
    matches = contamination.find((record for record, _ in _read_records(keys, tasks)), out, items, limits)
    _drop(counts, (key for key in keys if key.pair_id in matches), "in a benchmark")
    kept = [key for key in keys if key.pair_id not in matches]
    return kept, [asdict(matches[record_id]) for record_id in sorted(matches)]


def _split(keys: list[Key], options: Options) -> dict[str, list[Key]]:
    """The keys of each split, in the order of the corpora: verl shuffles. Sets of records that share images go to val by hash until it is
    full.
    """
    wanted = options.val if options.val is not None else min(DEFAULT_VAL, max(1, len(keys) // 10))
    if not 0 < wanted < len(keys):
        raise ValueError(f"--val {wanted}: give a number above 0 and below that of the records, {len(keys)}")
    members = Counter(key.group for key in keys)
    names: dict[int, str] = {}
    for key in keys:
        names[key.group] = min(names.get(key.group, key.pair_id), key.pair_id)
    held_out, room = set(), wanted
    for group in sorted(names, key=lambda group: _rank(options.seed, f"split:{names[group]}")):
        if members[group] <= room:
            held_out.add(group)
            room -= members[group]
    splits = {"train": [key for key in keys if key.group not in held_out], "val": [key for key in keys if key.group in held_out]}
    if not all(splits.values()):
        raise ValueError(f"no split is possible: the smallest set of records that share images has {min(members.values())}; raise --val")
    return splits


def _entries(keys: Sequence[Key], tasks: Sequence[shards.Task], options: Options) -> Iterator[writing.Entry]:
    pairs = [key for key in keys if key.style == "verdict"]
    orders = iter(rows.balanced_orders(pairs))
    for key, (record, num_tokens) in zip(keys, _read_records(keys, tasks), strict=True):
        if key.style == "math":
            yield record, shards.ORDERS[:1], num_tokens
        else:
            order = next(orders)
            yield record, shards.ORDERS if options.both_orders else (order,), num_tokens


def _read_records(keys: Sequence[Key], tasks: Sequence[shards.Task]) -> Iterator[tuple[Record, list[int]]]:
    """The record of each key, and its prompt's tokens."""
    for shard, members in groupby(keys, key=lambda key: key.shard):
        with tasks[shard].result.open("rb") as stream:
            for key in members:
                stream.seek(key.offset)
                line = json.loads(stream.readline())
                yield shards.record_of(line), line["tokens"]


def _provenance(corpus: Corpus, counts: shards.Counts) -> dict[str, Any]:
    module = shards.corpus_module(corpus.name)
    return {
        "location": "embedded" if corpus.drawn else corpus.location or module.HUB,
        # Of local files nothing says which revision they are.
        "revision": module.REVISION if corpus.drawn or corpus.location in ("", module.HUB) else "",
        "licence": module.LICENCE,
        "grade": module.GRADE,
        "quota": corpus.quota,
        "weight": corpus.weight,
        "counts": {**counts, "skipped": dict(counts["skipped"])},
    }
