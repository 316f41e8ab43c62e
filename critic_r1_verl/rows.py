# SPDX-License-Identifier: Apache-2.0
"""Turn records into the rows that verl trains on: their schema, the parquet files, and the check of a row against the reward.

The image paths of a row are relative to the folder of its parquet file. verl passes extra_info to compute_score.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

from critic_r1_verl import prompts
from critic_r1_verl.files import replacing
from critic_r1_verl.images import BadImage, check, file_bytes
from critic_r1_verl.records import CHOICES, ORDERS, Order, PairRecord, QuestionRecord, Record, path_problem
from critic_r1_verl.reward import compute_score

Row = dict[str, Any]

Kind = Literal["pair", "question"]
"""The kind of a record."""

KINDS: dict[Kind, tuple[str, str]] = {"pair": ("verdict", "critic"), "question": ("math", "policy")}
"""For each kind of record, the values of reward_model.style and ability in its rows."""

GROUP_ROWS = 1_000
"""How many rows are in memory while a parquet file is written: those of one row group."""

BATCH_ROWS = 256
"""How many rows are in memory while a parquet file is read."""


class Labelled(Protocol):
    """What balanced_orders needs of a pair. A PairRecord has it, and so has a key in the merge of the data build."""

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
    "extra_info": {"index": int, "pair_id": str, "order": str, "category": str, "template_sha": str, "split": str, "style": str},
}
"""Every column of a row with its type, for the parquet schema and for the check of a row."""

_LIVE_TOKEN = re.compile(r"<(?:video|audio|\|[^<>|\n]*\|)>")
"""Placeholders and chat tokens, which verl or a chat template would not treat as text."""

_PAIR_ID = re.compile("[0-9a-f]{20}")
_ABILITIES = dict(KINDS.values())

_WRONG_ANSWER = "-987654321"
"""An answer that no question has."""


def kind_of(record: Record) -> Kind:
    return "pair" if isinstance(record, PairRecord) else "question"


def record_row(record: Record, order: Any, *, templates: Mapping[str, prompts.Template], split: str, index: int) -> Row:
    """The row of a pair in an order, or of a question, which ignores order. templates holds a template for each kind."""
    if isinstance(record, PairRecord):
        return verdict_row(record, order, template=templates["pair"], split=split, index=index)
    return math_row(record, template=templates["question"], split=split, index=index)


def verdict_row(record: PairRecord, order: Order, *, template: prompts.Template, split: str, index: int) -> Row:
    """The row that asks which response of a pair is better. Its ground truth is in the shown frame. ValueError for an unknown order."""
    content = prompts.critic_text(record, order, template)
    return _row(record, order, content, record.shown(order).preferred, template, split, index)


def math_row(record: QuestionRecord, *, template: prompts.Template, split: str, index: int) -> Row:
    """The row that asks a question. Its extra_info.pair_id holds the question_id, and its extra_info.order is ""."""
    return _row(record, "", prompts.policy_text(record, template), record.answer, template, split, index)


def balanced_orders(records: Sequence[Labelled]) -> list[Order]:
    """The order in which training shows each record; the result has the sequence of the records.

    The records of each label are sorted by a hash of their pair_id and get "12" and "21" in turn. So the preferred response comes first in
    half of the rows (give or take one, and apart from ties), and the result does not depend on chance or on the sequence of the records.
    """
    orders: list[Order] = ["12"] * len(records)
    for label in CHOICES:
        positions = [position for position, record in enumerate(records) if record.preferred == label]
        positions.sort(key=lambda position: hashlib.sha256(records[position].record_id.encode()).digest())
        for rank, position in enumerate(positions):
            orders[position] = ORDERS[rank % 2]
    return orders


def check_row(row: Mapping[str, Any], root: str | Path, *, open_images: bool = True) -> list[str]:
    """The problems of a row, one sentence each; empty for a good row. root is the folder of its parquet file.

    It checks columns and types; roles; ability and style; that there are as many <image> placeholders as images, and no other placeholder
    or chat token; unless open_images is False, that every image is a plain file inside root (images.py); and that the reward of training
    gives acc 1 to the ground truth in the box, if it is known, and acc 0 to other choices or a wrong answer.
    """
    if problems := _shape_problems(row, SHAPE, ""):
        return problems
    if not row["data_source"]:
        problems.append("data_source is empty")
    if not _PAIR_ID.fullmatch(pair_id := row["extra_info"]["pair_id"]):
        problems.append(f"extra_info.pair_id {pair_id!r:.40} is not 20 hexadecimal digits")
    images = _image_problems(row["images"], Path(root)) if open_images else []
    return [*problems, *_prompt_problems(row), *images, *_reward_problems(row)]


def write_parquet(path: str | Path, rows: Iterable[Row]) -> None:
    """Write rows to a parquet file, GROUP_ROWS at a time. It appears only when it is complete; the same rows give the same bytes.

    A file without rows is one of a split that holds none. ValueError if a row does not match SHAPE; it names the row and the key.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, _arrow_type(shape)) for name, shape in SHAPE.items()])
    checked = _checked(path, rows)
    group = list(islice(checked, GROUP_ROWS))
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
    """All rows of a parquet file, in file order. ValueError as for stream_rows."""
    return list(stream_rows(path))


def stream_rows(path: str | Path) -> Iterator[Row]:
    """Yield the rows of a parquet file, in file order, with BATCH_ROWS of them in memory.

    ValueError for a missing file, one that is not parquet, or a missing column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; prepare the data first, or correct the path")
    try:
        # Not read_table, because it would take a folder named key=value for a partition.
        with pq.ParquetFile(path) as file:
            if missing := [name for name in SHAPE if name not in file.schema_arrow.names]:
                raise ValueError(f"{path}: column {missing[0]!r} is missing; the columns are {', '.join(file.schema_arrow.names)}")
            for batch in file.iter_batches(BATCH_ROWS):
                yield from batch.to_pylist()
    # UnicodeDecodeError: text that is not UTF-8 is found only when it is converted to a Python string.
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable parquet file ({error}); prepare the data again") from error


def _row(record: Record, order: str, content: str, ground_truth: str, template: prompts.Template, split: str, index: int) -> Row:
    style, ability = KINDS[kind_of(record)]
    return {
        "data_source": record.source,
        "prompt": [{"role": "user", "content": content}],
        "images": [image.path for image in record.images],
        "ability": ability,
        "reward_model": {"style": style, "ground_truth": ground_truth},
        "extra_info": {
            "index": index,
            "pair_id": record.record_id,
            "order": order,
            "category": record.category,
            "template_sha": template.sha,
            "split": split,
            "style": style,
        },
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
    return [] if type(value) is shape else [f"{where} is {value!r:.80}, not {'an integer' if shape is int else 'a string'}"]


def _prompt_problems(row: Mapping[str, Any]) -> list[str]:
    contents = [message["content"] for message in row["prompt"]]
    placeholders, images = sum(content.count("<image>") for content in contents), len(row["images"])
    roles = [message["role"] for message in row["prompt"]]
    problems = [] if roles[-1] == "user" and {*roles} <= {"system", "user", "assistant"} else [f"prompt has the roles {', '.join(roles)!r}"]
    problems += [] if placeholders == images else [f"prompt has {placeholders} <image> placeholders for {images} images"]
    problems += [f"prompt contains {match[0]!r} unescaped" for content in contents for match in _LIVE_TOKEN.finditer(content)]
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
            if not check(file_bytes(file)).plain:
                problems.append(f"image {path!r} in {root} is not an upright, opaque PNG or JPEG in 8 bits: verl would read other pixels")
        # A loop of links raises RuntimeError or OSError.
        except (BadImage, OSError, RuntimeError) as error:
            problems.append(f"image {path!r} in {root} does not open: {error}")
    return problems


def _reward_problems(row: Mapping[str, Any]) -> list[str]:
    style, gold, extra = row["reward_model"]["style"], row["reward_model"]["ground_truth"], row["extra_info"]
    if style not in _ABILITIES or extra["style"] != style:
        return [f"reward_model.style {style!r} and extra_info.style {extra['style']!r} are not both 'verdict' or both 'math'"]
    if row["ability"] != (ability := _ABILITIES[style]):
        return [f"ability {row['ability']!r} is not {ability!r}, as reward_model.style {style!r} says"]
    if style == "verdict" and gold not in CHOICES:
        return [f"ground_truth {gold!r} is none of '1', '2', 'tie'"]
    if extra["order"] not in (orders := ORDERS if style == "verdict" else ("",)):
        return [f"extra_info.order {extra['order']!r} is none of {', '.join(map(repr, orders))}"]
    wrong_answers = [choice for choice in CHOICES if choice != gold] if style == "verdict" else [_WRONG_ANSWER]

    def acc(answer: str) -> float:
        text = f"<think>checked</think>\\boxed{{{answer}}}"
        return compute_score(row["data_source"], text, gold, extra)["acc"]

    # An unknown answer, "", is paid to nobody.
    problems = [] if acc(gold) == 1 or (style == "math" and not gold) else [f"ground_truth {gold!r} in the box does not earn acc 1"]
    return problems + [f"{answer!r} in the box earns acc for ground_truth {gold!r}" for answer in wrong_answers if acc(answer) != 0]
