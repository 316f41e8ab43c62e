# SPDX-License-Identifier: Apache-2.0
"""Records -> the rows that verl trains on: the schema, the parquet files, and the check of a row against the reward.

A row names its images by paths relative to the folder of its parquet file; extra_info carries what verl hands to compute_score.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

from critic_r1_verl import prompts
from critic_r1_verl.files import replacing
from critic_r1_verl.images import BadImage, decoded
from critic_r1_verl.records import Order, PairRecord, QuestionRecord, Record, path_problem
from critic_r1_verl.reward import compute_score

Row = dict[str, Any]

Kind = Literal["pair", "question"]
"""What a record is, from the corpus to the report."""

KINDS: dict[Kind, tuple[str, str]] = {"pair": ("verdict", "critic"), "question": ("math", "policy")}
"""Kind of a record -> the values of verl's columns reward_model.style and ability in its rows. This is the only place that maps them."""

GROUP_ROWS = 1_000
"""Rows that are held in memory while a parquet file is written."""

BATCH_ROWS = 256
"""Rows that are held in memory while a parquet file is read."""


class Labelled(Protocol):
    """What balanced_orders needs of a pair: a PairRecord has it, and so has a key of the build's merge."""

    @property
    def record_id(self) -> str: ...

    @property
    def preferred(self) -> str: ...


SHAPE: dict[str, Any] = {
    "data_source": str,
    "prompt": [{"role": str, "content": str}],
    "images": [str],
    "ability": str,
    "reward_model": {"style": str, "ground_truth": str},
    "extra_info": {
        "index": int,
        "pair_id": str,
        "order": str,
        "category": str,
        "template_sha": str,
        "split": str,
        "style": str,
    },
}
"""Every column of a row with its type; the parquet schema and the check of a row both follow from it."""

_LIVE_TOKEN = re.compile(r"<(?:video|audio|\|[^<>|\n]*\|)>")
"""What verl or a chat template would take for structure where only text belongs."""

_PAIR_ID = re.compile("[0-9a-f]{20}")
_ABILITIES = dict(KINDS.values())

_WRONG_ANSWER = "-987654321"
"""An answer that no question has: the opposite of a right one."""


def kind_of(record: Record) -> Kind:
    return "pair" if isinstance(record, PairRecord) else "question"


def record_row(record: Record, order: Any, *, templates: Mapping[str, prompts.Template], split: str, index: int) -> Row:
    """The row of a pair in an order, or of a question, whose order is "". templates holds a template for each kind."""
    if isinstance(record, PairRecord):
        return verdict_row(record, order, template=templates["pair"], split=split, index=index)
    return math_row(record, template=templates["question"], split=split, index=index)


def verdict_row(record: PairRecord, order: Order, *, template: prompts.Template, split: str, index: int) -> Row:
    """The row that asks which response is better, shown in the order "12" or "21"; its ground truth is in that shown frame."""
    content = prompts.critic_text(record, order, template)
    better = record.shown(order).preferred
    extra = {"index": index, "pair_id": record.pair_id, "order": order, "template_sha": template.sha, "split": split}
    return _row(record, content, ground_truth=better, extra=extra)


def math_row(question_record: QuestionRecord, *, template: prompts.Template, split: str, index: int) -> Row:
    """The row that asks the question itself; extra_info.pair_id holds its question_id, and order is empty."""
    content = prompts.policy_text(question_record, template)
    extra = {"index": index, "pair_id": question_record.question_id, "order": "", "template_sha": template.sha, "split": split}
    return _row(question_record, content, ground_truth=question_record.answer, extra=extra)


def balanced_orders(records: Sequence[Labelled]) -> list[Order]:
    """For each record, by position, the order in which training shows it.

    Within each label the records are sorted by the hash of their pair_id and alternate between "12" and "21". So the preferred response
    stands first in half of the rows (within one; ties apart), and no order depends on chance or on the sequence of the records.
    """
    orders: list[Order] = ["12"] * len(records)
    for label in ("1", "2", "tie"):
        positions = [position for position, record in enumerate(records) if record.preferred == label]
        positions.sort(key=lambda position: hashlib.sha256(records[position].record_id.encode()).digest())
        for rank, position in enumerate(positions):
            orders[position] = "12" if rank % 2 == 0 else "21"
    return orders


def check_row(row: Mapping[str, Any], root: str | Path, *, open_images: bool = True) -> list[str]:
    """What is wrong with a row, one sentence each; empty for a sound one. root is the folder of its parquet file.

    Checked: columns and types; roles; ability and style; as many <image> placeholders as images, and no other placeholder or chat token;
    every image is a file inside root that decodes (not looked at without open_images, for rows whose images were decoded a moment before);
    the ground truth in the box has acc 1 under the reward of training, and its opposite acc 0.
    """
    if problems := _shape_problems(row, SHAPE, ""):
        return problems
    images = _image_problems(row["images"], Path(root)) if open_images else []
    pair_id = row["extra_info"]["pair_id"]
    unnamed = [] if row["data_source"] else ["data_source is empty"]
    unnamed += [] if _PAIR_ID.fullmatch(pair_id) else [f"extra_info.pair_id {pair_id!r:.40} is not 20 hexadecimal digits"]
    return [*unnamed, *_prompt_problems(row), *images, *_reward_problems(row)]


def write_parquet(path: str | Path, rows: Iterable[Row]) -> None:
    """Write rows to a parquet file that appears only when complete, GROUP_ROWS at a time; the same rows give the same bytes.

    ValueError names the row and the key that do not fit SHAPE.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, _arrow_type(shape)) for name, shape in SHAPE.items()])
    checked = _checked(path, rows)
    group = list(islice(checked, GROUP_ROWS))
    if not group:
        raise ValueError(f"{path}: no rows to write; verl cannot train on an empty file")
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        while group:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            group = list(islice(checked, GROUP_ROWS))


def _checked(path: str | Path, rows: Iterable[Row]) -> Iterator[Row]:
    for number, row in enumerate(rows):
        if problems := _shape_problems(row, SHAPE, ""):
            raise ValueError(f"{path}: row {number}: {problems[0]}")
        yield row


def read_rows(path: str | Path) -> list[Row]:
    """All rows of a parquet file, in its order. ValueError as for stream_rows."""
    return list(stream_rows(path))


def stream_rows(path: str | Path) -> Iterator[Row]:
    """The rows of a parquet file, in its order, of which BATCH_ROWS are held at a time.

    ValueError for a missing file, one that is not parquet, or a missing column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; prepare the data first, or correct the path")
    try:
        # One plain file: read_table would take a folder named key=value for a partition.
        with pq.ParquetFile(path) as file:
            if missing := [name for name in SHAPE if name not in file.schema_arrow.names]:
                raise ValueError(f"{path}: column {missing[0]!r} is missing; the columns are {', '.join(file.schema_arrow.names)}")
            for batch in file.iter_batches(BATCH_ROWS):
                yield from batch.to_pylist()
    # Text that is not UTF-8 is found only when it is converted to a Python string.
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable parquet file ({error}); prepare the data again") from error


def _row(record: Record, content: str, *, ground_truth: str, extra: dict[str, Any]) -> Row:
    style, ability = KINDS[kind_of(record)]
    extra = {**extra, "category": record.category, "style": style}
    return {
        "data_source": record.source,
        "prompt": [{"role": "user", "content": content}],
        "images": [image.path for image in record.images],
        "ability": ability,
        "reward_model": {"style": style, "ground_truth": ground_truth},
        "extra_info": {name: extra[name] for name in SHAPE["extra_info"]},
    }


def _arrow_type(shape: Any) -> Any:
    import pyarrow as pa

    if isinstance(shape, dict):
        return pa.struct([(name, _arrow_type(inner)) for name, inner in shape.items()])
    if isinstance(shape, list):
        return pa.list_(_arrow_type(shape[0]))
    return pa.int64() if shape is int else pa.string()


def _shape_problems(value: Any, shape: Any, where: str) -> list[str]:
    if isinstance(shape, dict):
        if not isinstance(value, Mapping):
            return [f"{where or 'the row'} is not a mapping"]
        prefix = f"{where}." if where else ""
        problems = [f"{prefix}{name} is missing" for name in shape if name not in value]
        problems += [f"{prefix}{name} is an unknown key" for name in value if name not in shape]
        return problems + [text for name in shape if name in value for text in _shape_problems(value[name], shape[name], prefix + name)]
    if isinstance(shape, list):
        # A prompt may have no image.
        if not isinstance(value, list) or not (value or where == "images"):
            return [f"{where} is not a {'' if where == 'images' else 'non-empty '}list"]
        return [text for number, inner in enumerate(value) for text in _shape_problems(inner, shape[0], f"{where}[{number}]")]
    return [] if type(value) is shape else [f"{where} is {value!r:.80}, not {'an integer' if shape is int else 'a text'}"]


def _prompt_problems(row: Mapping[str, Any]) -> list[str]:
    contents = [message["content"] for message in row["prompt"]]
    placeholders, images = sum(content.count("<image>") for content in contents), len(row["images"])
    roles = [message["role"] for message in row["prompt"]]
    problems = [] if roles[-1] == "user" and {*roles} <= {"system", "user", "assistant"} else [f"prompt has the roles {', '.join(roles)!r}"]
    problems += [] if placeholders == images else [f"prompt has {placeholders} <image> placeholders for {images} images"]
    problems += [f"prompt holds {match[0]!r} unescaped" for content in contents for match in _LIVE_TOKEN.finditer(content)]
    return problems


def _image_problems(paths: Sequence[str], root: Path) -> list[str]:
    problems = []
    for path in paths:
        if problem := path_problem(path):
            problems.append(f"image {path!r} {problem}")
            continue
        try:
            file = (root / path).resolve()
            if not file.is_relative_to(root.resolve()):
                problems.append(f"image {path!r} is a link that leaves {root}")
                continue
            decoded(file)
        # A loop of links is a RuntimeError or an OSError.
        except (BadImage, OSError, RuntimeError) as error:
            problems.append(f"image {path!r} in {root} does not open: {error}")
    return problems


def _reward_problems(row: Mapping[str, Any]) -> list[str]:
    style, gold, extra = row["reward_model"]["style"], row["reward_model"]["ground_truth"], row["extra_info"]
    if style not in _ABILITIES or extra["style"] != style:
        return [f"reward_model.style {style!r} and extra_info.style {extra['style']!r} are not both 'verdict' or both 'math'"]
    if row["ability"] != (ability := _ABILITIES[style]):
        return [f"ability {row['ability']!r} is not {ability!r}, as reward_model.style {style!r} says"]
    if style == "verdict" and gold not in ("1", "2", "tie"):
        return [f"ground_truth {gold!r} is none of '1', '2', 'tie'"]
    if extra["order"] not in (orders := ("12", "21") if style == "verdict" else ("",)):
        return [f"extra_info.order {extra['order']!r} is none of {', '.join(map(repr, orders))}"]
    opposites = {"1": ["2", "tie"], "2": ["1", "tie"], "tie": ["1", "2"]}[gold] if style == "verdict" else [_WRONG_ANSWER]

    def acc(answer: str) -> float:
        text = f"<think>checked</think>\\boxed{{{answer}}}"
        return compute_score(row["data_source"], text, gold, extra)["acc"]

    problems = [] if acc(gold) == 1 else [f"ground_truth {gold!r} in the box does not earn acc 1"]
    return problems + [f"{answer!r} in the box earns acc for ground_truth {gold!r}" for answer in opposites if acc(answer) != 0]
