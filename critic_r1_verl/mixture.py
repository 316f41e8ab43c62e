# SPDX-License-Identifier: Apache-2.0
"""Which rows a training sees, and in which sequence: critic_r1.rows of the recipe, which dataset.py applies.

A training has one or more stages, one after the other. In each, kinds of rows are mixed by fixed shares, spread evenly. Of each kind the
rows are drawn by a hash of the seed and the id of their record, so the rows of a pair are drawn together, and a longer training sees what a
shorter one sees and more.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from critic_r1_verl.records import ORDERS, Choice, to_record

Orders = Literal["built", "both", "together"]
"""The orders in which pairs are shown: as in the data; both; or both, in one training step."""

Labels = Literal["given", "coin"]
"""What the verdict of a pair has to be: what the data say, or what a coin says (coin)."""

COLUMNS = ("extra_info", "images", "reward_model")
"""The columns of a row that a Fact is made of."""


class Fact(NamedTuple):
    """What the choice of a row depends on. order is "" for a question."""

    record_id: str
    order: str
    label: str
    has_image: bool


class Place(NamedTuple):
    """A row of the data by its number, shown in the other order than its own if exchanged."""

    row: int
    exchanged: bool = False


KINDS = {
    "pair": lambda fact: fact.order != "",
    "image_pair": lambda fact: fact.order != "" and fact.has_image,
    "text_pair": lambda fact: fact.order != "" and not fact.has_image,
    "question": lambda fact: fact.order == "" and fact.label != "",
    "any_question": lambda fact: fact.order == "",
}
"""The kinds of rows that a stage may mix."""

_SOURCES = {
    "pair": "preference pairs",
    "image_pair": "preference pairs with an image",
    "text_pair": "preference pairs without an image (docs/data.md, your own pairs)",
    "question": "questions with answers (docs/data.md, public corpora)",
    "any_question": "questions, with or without answers (docs/data.md)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """critic_r1.rows. ValueError names a key with a value that it cannot have.

    stages: for each stage the share of each kind of rows, in [0, 1], adding up to 1. number: how many rows all stages have, or fewer if the
    data have fewer; None: all that the shares allow. times: times so many, of which none may be missing. ties: whether pairs without a
    better response are among them.
    """

    stages: tuple[Mapping[str, float], ...] = ({"pair": 1.0},)
    number: int | None = None
    times: float = 1.0
    orders: Orders = "built"
    ties: bool = True
    labels: Labels = "given"
    seed: int = 1

    def __post_init__(self) -> None:
        for key, allowed in (("orders", get_args(Orders)), ("labels", get_args(Labels)), ("ties", (True, False))):
            if (value := getattr(self, key)) not in allowed:
                raise ValueError(f"critic_r1.rows.{key}={value}: give one of {', '.join(map(str, allowed))}")
        if self.number is not None and (type(self.number) is not int or self.number < 1):
            raise ValueError(f"critic_r1.rows.number={self.number}: give a whole number above 0, or null for all rows")
        if not self.times > 0:
            raise ValueError(f"critic_r1.rows.times={self.times}: give a number above 0")
        for shares in self.stages:
            if unknown := shares.keys() - KINDS.keys():
                raise ValueError(f"critic_r1.rows.stages: {unknown.pop()!r} is no kind of row; the kinds are {', '.join(KINDS)}")
            if "pair" in shares and {"image_pair", "text_pair"} & shares.keys():
                raise ValueError(f"critic_r1.rows.stages: {dict(shares)} names some pairs twice; 'pair' is those with and without an image")
            if {"question", "any_question"} <= shares.keys():
                raise ValueError(f"critic_r1.rows.stages: {dict(shares)} names some questions twice; 'any_question' is all of them")
            if any(share < 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
                raise ValueError(f"critic_r1.rows.stages: the shares {dict(shares)} do not add up to 1, each from 0 to 1")
        if not self.stages:
            raise ValueError("critic_r1.rows.stages is empty: give one stage at least, as [{pair: 1}]")

    @property
    def in_sequence(self) -> bool:
        """Whether the sequence of the rows matters, so that nobody may shuffle them."""
        return len(self.stages) > 1 or self.orders == "together"


def read(rows: Mapping[str, Any]) -> Mixture:
    """The Mixture of a critic_r1.rows, as a plain or a composed one. ValueError as there, or for an unknown key."""
    try:
        return Mixture(**{**rows, "stages": tuple(dict(shares) for shares in rows["stages"])})
    except TypeError as error:
        raise ValueError(f"critic_r1.rows: {error}") from error


def fact(row: Mapping[str, Any]) -> Fact:
    """The Fact of a row with COLUMNS. ValueError names a missing key."""
    extra = row["extra_info"] or {}
    for key in ("pair_id", "order", "style"):
        if extra.get(key) is None:
            raise ValueError(f"extra_info.{key} is missing; build the data again with `make prep`")
    order = extra["order"] if extra["style"] == "verdict" else ""
    return Fact(extra["pair_id"], order, row["reward_model"]["ground_truth"], bool(row["images"]))


def choose(facts: Sequence[Fact], mixture: Mixture) -> list[Place]:
    """The rows that a training sees in one epoch, in their sequence. ValueError if rows of a kind or ties are missing."""
    units = _units(facts, mixture.orders)
    if not mixture.ties:
        untied = {record: unit for record, unit in units.items() if facts[unit[0].row].label != "tie"}
        if len(untied) == len(units):
            raise ValueError("critic_r1.rows.ties=false leaves out no row, because there are no ties: this would be the same training")
        units = untied
    ranked = sorted(units, key=lambda record: hashlib.sha256(f"{mixture.seed}:{record}".encode()).digest())
    used: set[str] = set()
    chosen: list[Place] = []
    for shares in mixture.stages:
        pools = {
            kind: [record for record in ranked if record not in used and KINDS[kind](facts[units[record][0].row])]
            for kind, share in shares.items()
            if share > 0
        }
        drawn = _draw(pools, shares, units, mixture)
        used.update(drawn)
        chosen += [place for record in drawn for place in units[record]]
    return chosen


def validation(facts: Sequence[Fact], orders: Orders) -> list[Place]:
    """All rows in their sequence, the pairs before the questions, so that the two rows of a pair are beside each other."""
    if orders not in get_args(Orders):
        raise ValueError(f"critic_r1.val_orders={orders}: give one of {', '.join(get_args(Orders))}")
    units = _units(facts, orders)
    ordered = sorted(units.values(), key=lambda unit: facts[unit[0].row].order == "")
    return [place for unit in ordered for place in unit]


def check_steps(places: Sequence[Place], facts: Sequence[Fact], batch: int) -> None:
    """ValueError if the two rows of a pair are in different batches of so many rows."""
    for number, (one, other) in enumerate(pairwise(places), 1):
        if number % batch == 0 and facts[one.row].record_id == facts[other.row].record_id:
            raise ValueError(
                f"the two orders of pair {facts[one.row].record_id} would be in different batches of {batch} rows; take an even number"
            )


def coin(record_id: str, order: str) -> Choice:
    """A label in the shown frame, by a coin that depends on the pair alone.

    >>> coin("00000000000000000000", "12"), coin("00000000000000000000", "21")
    ('2', '1')
    """
    heads = hashlib.sha256(f"coin:{record_id}".encode()).digest()[0] % 2
    choice = to_record(order, "1" if heads else "2")
    assert choice is not None
    return choice


def facts_of(files: Iterable[str | Path]) -> Iterator[Fact]:
    """The Fact of each row of these parquet files. ValueError for a file that cannot be read or lacks COLUMNS."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in files:
        try:
            table = pq.read_table(file, columns=list(COLUMNS), partitioning=None)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{file}: not a readable parquet file ({error}); prepare the data again") from error
        yield from map(fact, table.to_pylist())


def _units(facts: Sequence[Fact], orders: Orders) -> dict[str, list[Place]]:
    """The rows of each record, in the order of the data: those that are drawn together."""
    units: dict[str, list[Place]] = defaultdict(list)
    for number, each in enumerate(facts):
        units[each.record_id].append(Place(number))
    if orders == "built":
        return units

    def both(places: list[Place]) -> list[Place]:
        row_of = {facts[place.row].order: place for place in places}
        return places if "" in row_of else [row_of.get(order, Place(places[0].row, exchanged=True)) for order in ORDERS]

    return {record: both(places) for record, places in units.items()}


def _draw(pools: Mapping[str, list[str]], shares: Mapping[str, float], units: Mapping[str, list[Place]], mixture: Mixture) -> list[str]:
    """The records of one stage, from the records of each kind that are left; each kind is spread evenly over the stage."""
    there = {kind: sum(len(units[record]) for record in pool) for kind, pool in pools.items()}
    for kind, number in there.items():
        if not number:
            raise ValueError(
                f"no row of the kind {kind!r}, and the recipe asks for a share of {shares[kind]:g} (critic_r1.rows.stages); "
                f"build the data with {_SOURCES[kind]}"
            )
    allowed = min(number / shares[kind] for kind, number in there.items())
    total = mixture.times * min(allowed, (mixture.number or float("inf")) / len(mixture.stages))
    placed = []
    for position, (kind, pool) in enumerate(pools.items()):
        wanted = round(shares[kind] * total)
        if wanted > there[kind]:
            raise ValueError(
                f"{wanted} rows of the kind {kind!r} are asked for (critic_r1.rows.times={mixture.times:g}), "
                f"and there are {there[kind]}; build more data, or let all runs that are compared train on fewer, by critic_r1.rows.number"
            )
        drawn: list[str] = []
        num_drawn = 0
        for record in pool:
            if num_drawn + len(units[record]) > wanted:
                break
            drawn.append(record)
            num_drawn += len(units[record])
        if not drawn:
            raise ValueError(f"critic_r1.rows: of {total:g} rows, a share of {shares[kind]:g} is no row of the kind {kind!r}; ask for more")
        placed += [((number + 0.5) / len(drawn), position, record) for number, record in enumerate(drawn)]
    return [record for _, _, record in sorted(placed)]
