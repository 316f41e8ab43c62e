# SPDX-License-Identifier: Apache-2.0
"""What a data folder holds, for a person: on the terminal, as JSON, and as a page with a sample of rows.

    python -m data_prep inspect runs/data --html look.html

All three show the same numbers, those of figures(). The responses are read back out of the prompts by the template that made them; rows for
which that is not certain, because a response holds the template's own words, count as `unread` and stay out of the lengths.
"""

import base64
import io
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from critic_r1_verl import prompts, report
from critic_r1_verl.files import replacing
from critic_r1_verl.records import path_problem
from critic_r1_verl.rows import Row
from critic_r1_verl.scoring.estimates import Estimate, estimate, paired_difference
from data_prep.validate import SPLITS, stream_rows

Figures = dict[str, Any]

ALL = "all sources"
NUM_EXAMPLES = 12
PICTURE_PIXELS = 512
FIELDS = ("question", "response_1", "response_2")


@dataclass(frozen=True, slots=True)
class Fact:
    """What one row adds to the figures. first and second are lengths in characters of the responses as shown, None if they are unread."""

    split: str
    number: int
    source: str
    style: str
    record_id: str
    order: str
    label: str
    first: int | None = None
    second: int | None = None

    @property
    def preferred_and_other(self) -> tuple[int, int] | None:
        if self.first is None or self.second is None:
            return None
        return (self.first, self.second) if self.label == "1" else (self.second, self.first)


@dataclass(frozen=True, slots=True)
class Table:
    """One table for the terminal and for the page: each cell is a text, or a text and a smaller one below it."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: list[tuple[str | tuple[str, str], ...]]


def inspect(folder: Path, *, html: Path | None = None, as_json: bool = False, seed: int = 0, templates: Sequence[str] = ()) -> None:
    """Print the figures of a data folder, as tables or as JSON, and write the page if html names a file.

    seed draws the sample of the page. templates are the user's own prompt files that the folder was built with, if it was.
    """
    manifest = read_manifest(folder)
    known = known_templates(manifest, templates)
    facts = [_fact(row, split, number, known) for split in SPLITS for number, row in enumerate(stream_rows(folder / f"{split}.parquet"))]
    found = figures(facts, manifest)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        _print(tables(found))
    if html:
        _write_page(folder, html, found, _sample(facts, seed), known)


def figures(facts: Sequence[Fact], manifest: dict[str, Any]) -> Figures:
    """Every number that is shown: {sources: {name: ...}, corpora, prompt_tokens, ...}.

    For each source, and for ALL of them if there are several: rows {split: n}, pairs, questions, unread; labels {"1", "2", "tie": rows} as
    shown; rules {name: estimate}: how often the rule would be right, ties apart, one half where two responses are equally long;
    lengths {preferred, other, difference: estimate} in characters. Both orders of a pair are one draw. An estimate without values is None.
    """
    by_source: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_source[fact.source].append(fact)
    sources = {name: _source_figures(by_source[name]) for name in sorted(by_source)}
    if len(sources) > 1:
        sources[ALL] = _source_figures(facts)
    return {
        "sources": sources,
        "corpora": manifest["corpora"],
        "prompt_tokens": manifest.get("lengths"),
        "ties": manifest.get("ties"),
        "decontamination": manifest.get("decontamination"),
        "templates": manifest["templates"],
        "seed": manifest.get("seed"),
        "version": manifest.get("version"),
    }


def _source_figures(facts: Sequence[Fact]) -> Figures:
    pairs = [fact for fact in facts if fact.style == "verdict"]
    decided = [fact for fact in pairs if fact.label != "tie"]
    read = [(fact.record_id, *lengths) for fact in decided if (lengths := fact.preferred_and_other)]
    labels = Counter(fact.label for fact in pairs)
    rows = Counter(fact.split for fact in facts)
    ids, preferred, other = [entry[0] for entry in read], [entry[1] for entry in read], [entry[2] for entry in read]
    return {
        "rows": {split: rows[split] for split in SPLITS},
        "pairs": len({fact.record_id for fact in pairs}),
        "questions": len({fact.record_id for fact in facts if fact.style == "math"}),
        "unread": sum(fact.first is None for fact in pairs),
        "labels": {label: labels[label] for label in ("1", "2", "tie")},
        "rules": {
            "longer": _estimate(estimate, [_half_if_equal(a, b) for _, a, b in read], clusters=ids),
            "first_shown": _share(decided, lambda fact: fact.label == "1"),
            "first_in_corpus": _share(decided, lambda fact: fact.order[int(fact.label) - 1] == "1"),
        },
        "lengths": {
            "preferred": _estimate(estimate, preferred, clusters=ids),
            "other": _estimate(estimate, other, clusters=ids),
            "difference": _estimate(paired_difference, other, preferred, clusters=ids),
        },
    }


def _half_if_equal(preferred: int, other: int) -> float:
    return 0.5 if preferred == other else float(preferred > other)


def _share(facts: Sequence[Fact], rule: Callable[[Fact], bool]) -> Estimate | None:
    return _estimate(estimate, [float(rule(fact)) for fact in facts], clusters=[fact.record_id for fact in facts])


def _estimate(function: Callable[..., Estimate], *values: Sequence[float], clusters: Sequence[str]) -> Estimate | None:
    """A function of metrics, which wants values in [0, 1], on non-negative values of any size; None if there are none."""
    if not clusters:
        return None
    scale = max(1.0, *(max(part) for part in values))
    found = function(*([value / scale for value in part] for part in values), clusters)
    return {"value": found["value"] * scale, "n": found["n"], "ci95": [bound * scale for bound in found["ci95"]]}


# Reading


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of a data folder. ValueError says what is missing and what writes it."""
    file = folder / "manifest.json"
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: cannot be read ({error}); `python -m data_prep build` writes it, last of all") from error
    for key in ("corpora", "templates"):
        if not isinstance(manifest, dict) or not isinstance(manifest.get(key), dict):
            raise ValueError(f"{file}: {key!r} is missing or not an object; build the data again")
    return manifest


def known_templates(manifest: dict[str, Any], files: Sequence[str] = ()) -> dict[str, prompts.Template]:
    """By sha, the templates of the manifest that this checkout has in the same version, and those of the user's files."""
    own = {path.stem for path in Path(prompts.__file__).parent.glob("*.txt")}
    templates = [prompts.load(name) for name in (*(name for name in manifest["templates"] if name in own), *files)]
    return {template.sha: template for template in templates}


def unfill(template: prompts.Template, text: str) -> tuple[dict[str, str], bool]:
    """The values that template.fill put into text, and whether they are certain; a linear search, {} if the text is not of this template.

    Where a value holds the words that stand between two values the first occurrence is taken, and nothing is certain.
    """
    fields = FIELDS if "{response_1}" in template.text else FIELDS[:1]
    words = template.fill(**{name: f"\0{name}\0" for name in fields}).split("\0")
    separators, names = words[::2], words[1::2]
    if not text.startswith(separators[0]) or not text.endswith(separators[-1]) or len(set(names)) < len(names):
        return {}, False
    rest = text[len(separators[0]) : len(text) - len(separators[-1])]
    # Not by count: two occurrences may overlap.
    certain = all(separator and rest.find(separator) == rest.rfind(separator) for separator in separators[1:-1])
    values = []
    for separator in separators[1:-1]:
        value, found, rest = rest.partition(separator) if separator else (rest, "", "")
        if not found:
            return {}, False
        values.append(value)
    return dict(zip(names, [*values, rest], strict=True)), certain


def read_prompt(row: Row, templates: dict[str, prompts.Template]) -> tuple[dict[str, str], bool]:
    """unfill for the prompt of a row: question and, of a pair, both responses as shown."""
    template = templates.get(row["extra_info"]["template_sha"])
    text = row["prompt"][0]["content"].removeprefix("<image>\n" * len(row["images"]))
    return unfill(template, text) if template else ({}, False)


def _fact(row: Row, split: str, number: int, templates: dict[str, prompts.Template]) -> Fact:
    extra, model = row["extra_info"], row["reward_model"]
    values, certain = read_prompt(row, templates) if model["style"] == "verdict" else ({}, False)
    return Fact(
        split=split,
        number=number,
        source=row["data_source"],
        style=model["style"],
        record_id=extra["pair_id"],
        order=extra["order"],
        label=model["ground_truth"],
        first=len(values["response_1"]) if certain else None,
        second=len(values["response_2"]) if certain else None,
    )


# Showing


def tables(found: Figures) -> list[Table]:
    """The figures as tables of text."""
    sources = found["sources"]
    tokens = found["prompt_tokens"] or {}
    unread = sum(figure["unread"] for name, figure in sources.items() if name != ALL)
    left_out = "1 row is" if unread == 1 else f"{unread:,} rows are"
    shown = [
        Table(
            "Rows",
            "Labels as shown: the better response stands first, second, or neither is better.",
            ("source", "train", "val", "pairs", "questions", "first", "second", "tie"),
            [
                (name, *(f"{n:,}" for n in (*figure["rows"].values(), figure["pairs"], figure["questions"], *figure["labels"].values())))
                for name, figure in sources.items()
            ],
        ),
        Table(
            "What a rule without looking would get right, in percent",
            "Pairs with a preference; 95 % intervals. 50 is chance; what lies far from it can be learnt instead of judging.",
            ("source", "n", "longer wins", "first shown wins", "first in corpus wins"),
            [
                (name, f"{(figure['rules']['first_shown'] or {'n': 0})['n']:,}", *(_cell(rule, 100) for rule in figure["rules"].values()))
                for name, figure in sources.items()
            ],
        ),
        Table(
            "Characters in a response",
            "Means with 95 % intervals, over the same pairs"
            + (f"; {left_out} left out, as the responses cannot be told apart with certainty." if unread else "."),
            ("source", "preferred", "other", "difference"),
            [(name, *(_cell(length, 1) for length in figure["lengths"].values())) for name, figure in sources.items()],
        ),
    ]
    if tokens.get("tokenizer"):
        note = f"Tokenizer {tokens['tokenizer']}; images count by the processor's size rule."
        numbers = [(name.replace("_", " "), f"{value:,}") for name, value in tokens.items() if isinstance(value, int)]
        shown.append(Table("Prompt tokens", note, ("tokens", "number"), [*numbers]))
    for name, corpus in found["corpora"].items():
        counts = corpus["counts"]
        about = ", ".join(f"{key} {corpus[key]}" for key in ("revision", "licence", "grade") if corpus.get(key))
        reasons = sorted(counts["skipped"].items(), key=lambda reason: (-reason[1], reason[0]))
        lines = [("read", counts["read"]), ("kept", counts["kept"]), *((f"skipped: {reason}", n) for reason, n in reasons)]
        shown.append(Table(f"Corpus {name}", about, ("records", "number"), [(label, f"{n:,}") for label, n in lines]))
    return shown


def _cell(found: Estimate | None, scale: int) -> tuple[str, str]:
    if found is None:
        return "–", ""
    # Rounded first: adding 0.0 takes the minus off a zero.
    value, low, high = (f"{round(scale * number, 1) + 0.0:,.1f}".replace("-", "−") for number in (found["value"], *found["ci95"]))
    return value, f"{low}, {high}"


def _print(shown: Iterable[Table]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as RichTable

    console = Console(highlight=False)
    for table in shown:
        console.print(f"\n[bold]{escape(table.title)}[/bold]")
        if table.note:
            console.print(escape(table.note), style="dim")
        grid = RichTable(box=None, show_edge=False, padding=(0, 2, 0, 0), pad_edge=False)
        grid.add_column(table.columns[0], overflow="fold")
        for name in table.columns[1:]:
            grid.add_column(name, justify="right", no_wrap=True)
        for row in table.rows:
            grid.add_row(*(escape(cell if isinstance(cell, str) else "\n".join(cell)) for cell in row))
        console.print(grid)


def _sample(facts: Sequence[Fact], seed: int) -> list[Fact]:
    """NUM_EXAMPLES rows by chance, from each source in turn, so that a small one is seen too."""
    by_source: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_source[fact.source].append(fact)
    rng = random.Random(f"inspect-{seed}")
    drawn = [rng.sample(by_source[name], min(NUM_EXAMPLES, len(by_source[name]))) for name in sorted(by_source)]
    return [part[turn] for turn in range(NUM_EXAMPLES) for part in drawn if turn < len(part)][:NUM_EXAMPLES]


def _write_page(folder: Path, out: Path, found: Figures, sample: Sequence[Fact], templates: dict[str, prompts.Template]) -> None:
    wanted = {(fact.split, fact.number) for fact in sample}
    rows = {
        (split, number): row
        for split in SPLITS
        for number, row in enumerate(stream_rows(folder / f"{split}.parquet"))
        if (split, number) in wanted
    }
    page = report.render(
        Path(__file__).with_name("inspection.html.j2"),
        name=folder.resolve().name,
        num_rows=sum(sum(figure["rows"].values()) for name, figure in found["sources"].items() if name != ALL),
        tables=tables(found),
        templates=found["templates"],
        examples=[_example(folder, fact, rows[fact.split, fact.number], templates) for fact in sample],
    )
    with replacing(out) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")


def _example(folder: Path, fact: Fact, row: Row, templates: dict[str, prompts.Template]) -> dict[str, Any]:
    values, certain = read_prompt(row, templates)
    return {
        "fact": fact,
        "category": row["extra_info"]["category"],
        "images": [_picture_uri(folder, path) for path in row["images"]],
        "values": values,
        "certain": certain,
        "prompt": row["prompt"][0]["content"],
    }


def _picture_uri(folder: Path, path: str) -> str:
    """The picture as a data URI, no side longer than PICTURE_PIXELS."""
    from PIL import Image

    file = (folder / path).resolve()
    if path_problem(path) or not file.is_relative_to(folder.resolve()):
        raise ValueError(f"{folder}: image {path!r} is not inside the folder; `python -m data_prep validate {folder}` names all such rows")
    buffer = io.BytesIO()
    try:
        with Image.open(file) as picture:
            kind = "JPEG" if picture.format == "JPEG" else "PNG"
            picture.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
            picture.save(buffer, kind)
    # Pillow raises OSError, SyntaxError, struct.error and more on hostile bytes: here they all mean the same.
    except Exception as error:
        raise ValueError(f"{file}: does not open ({error}); `python -m data_prep validate {folder}` names all such rows") from error
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
