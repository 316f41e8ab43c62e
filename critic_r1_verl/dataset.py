# SPDX-License-Identifier: Apache-2.0
"""CriticDataset, which verl loads through `data.custom_cls`: verl's RLHFDataset for the rows of rows.py.

It checks every row before the first rollout and raises an error that names the bad one, while verl's filter prints an error and drops it.
data.custom_cls.train says which training rows are taken (mixture.py), data.custom_cls.val_orders in which orders held-out pairs are shown.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
from verl.utils.dataset.rl_dataset import RLHFDataset

from critic_r1_verl import data_folder, mixture
from critic_r1_verl.data_folder import without_held_out
from critic_r1_verl.records import PairRecord, RecordFile
from critic_r1_verl.rows import KINDS, Row, verdict_row

COLUMNS = ("data_source", "prompt", "images", "reward_model", "extra_info")
PLACEHOLDER = re.compile("<image>|<video>|<audio>")
POLICY_SOURCE = "{}/policy"
"""The data source of a question, by which its metrics are told from those of the pairs of the same source."""

_VERDICT, _ = KINDS["pair"]


class CriticDataset(RLHFDataset):
    """Rows whose image paths are relative to the folder of their parquet file. `raw_prompt` gets absolute, checked paths.

    FileNotFoundError for a missing data file. ValueError, with file and row, for a missing column, for different numbers of placeholders
    and images, and for an image that is missing or outside the folder of its data file; with the key of the recipe, for rows that it asks
    for and the data lack, and for settings under which verl would shuffle or divide what belongs together.
    """

    dataframe: Any

    def _download(self, use_origin_parquet: bool = False) -> None:
        for file in self.original_data_files:
            if "://" not in str(file) and not Path(file).is_file():
                raise FileNotFoundError(f"{file}: no such data file; run `make prep`, or set data.train_files and data.val_files")
            if str(file).endswith(".parquet") and _is_empty(str(file)):
                raise ValueError(f"{file}: no rows; to train without held-out rows, add {without_held_out('TRAIN.parquet')}")
        super()._download(use_origin_parquet)

    def _read_files_and_tokenize(self) -> None:
        super()._read_files_and_tokenize()
        files = ", ".join(str(file) for file in self.data_files)
        if missing := [name for name in COLUMNS if name not in self.dataframe.column_names]:
            raise ValueError(
                f"{files}: no column {missing[0]!r} (found {', '.join(self.dataframe.column_names)}); build it with `make prep`"
            )
        for row, example in enumerate(self.dataframe.select_columns(["prompt", "images"])):
            try:
                self._check(example["prompt"], example["images"] or [])
            except ValueError as error:
                raise ValueError(f"{files}: row {row}: {error}; rebuild the data with `make prep`") from error
        try:
            self._choose()
        except ValueError as error:
            raise ValueError(f"{files}: {error}") from error

    def _choose(self) -> None:
        """Keep the rows of the recipe's choice, in its sequence."""
        settings, train = self.config.custom_cls, self.config.train_files
        facts = [mixture.fact(row) for row in self.dataframe.select_columns(mixture.COLUMNS)]
        self._by_coin = False
        if self.original_data_files == ([train] if isinstance(train, str) else list(train)):
            chosen = mixture.read(settings.train)
            if chosen.in_sequence and self.config.shuffle:
                raise ValueError("the sequence of the rows is a part of this recipe (critic_r1.rows); add data.shuffle=false")
            places, self._by_coin = mixture.choose(facts, chosen), chosen.labels == "coin"
            batch = self.config.train_batch_size if chosen.orders == "together" else None
        else:
            places = mixture.validation(facts, settings.val_orders)
            batch = self.config.val_batch_size
        if batch:
            mixture.check_steps(places, facts, batch)
        exchanged = [place for place in places if place.exchanged]
        number_of = {place: number for number, place in enumerate(exchanged, len(self.dataframe))}
        if exchanged:
            made = datasets.Dataset.from_list(self._exchanged([place.row for place in exchanged]), features=self.dataframe.features)
            self.dataframe = datasets.concatenate_datasets([self.dataframe, made])
        self.dataframe = self.dataframe.select([number_of.get(place, place.row) for place in places])

    def _exchanged(self, numbers: Sequence[int]) -> list[Row]:
        """The same rows in their other order, made of the records of the build."""
        rows = self.dataframe.select(numbers)
        wanted = {row["extra_info"]["pair_id"] for row in rows}
        folders = {Path(file).parent for file in self.data_files}
        templates = {template.sha: template for folder in folders for template in data_folder.templates(folder).values()}
        records = {
            record.pair_id: record
            for folder in folders
            for record in RecordFile(folder / data_folder.RECORDS, PairRecord)
            if record.pair_id in wanted
        }
        made = []
        for row in rows:
            extra = row["extra_info"]
            record, template = records.get(extra["pair_id"]), templates.get(extra["template_sha"])
            if record is None or template is None:
                raise ValueError(
                    f"pair {extra['pair_id']} or its template is not in {data_folder.RECORDS} and the manifest beside the data, of which "
                    "its other order is made; build the data with `make prep`, or show pairs as they were built by "
                    "critic_r1.rows.orders=built critic_r1.val_orders=built"
                )
            own, other = (
                verdict_row(record, order, template=template, split=extra["split"], index=extra["index"])
                for order in (extra["order"], "21" if extra["order"] == "12" else "12")
            )
            if own["prompt"] != row["prompt"]:
                raise ValueError(f"pair {extra['pair_id']}: its row is not made of its record; build the data again with `make prep`")
            made.append(other)
        return made

    def __getitem__(self, item: int) -> dict:
        """The row of RLHFDataset, with the label of the recipe, and a data source that tells questions from pairs."""
        row = super().__getitem__(item)
        extra = row["extra_info"]
        if extra["style"] != _VERDICT:
            row["data_source"] = POLICY_SOURCE.format(row["data_source"])
        elif self._by_coin:
            row["reward_model"]["ground_truth"] = mixture.coin(extra["pair_id"], extra["order"])
        return row

    def maybe_filter_out_long_prompts(self, dataframe: Any = None) -> Any:
        """Drops no row: the data build has already dropped and counted the rows that are too long."""
        if self.filter_overlong_prompts:
            raise ValueError("data.filter_overlong_prompts=true would drop rows without counting them; leave it false")
        return dataframe

    def _build_messages(self, example: dict, key: str) -> list[dict]:
        example[self.image_key] = [str(self._resolve(image)) for image in example.get(self.image_key) or []]
        return super()._build_messages(example, key)

    def _check(self, prompt: list[dict], images: list[str]) -> None:
        placeholders = sum(len(PLACEHOLDER.findall(message["content"])) for message in prompt)
        if placeholders != len(images):
            raise ValueError(f"{placeholders} placeholders in the prompt, {len(images)} images")
        for image in images:
            self._resolve(image)

    def _resolve(self, image: str) -> Path:
        """The absolute path of an image. It may lie beside any of the data files, because its name is a hash of its content."""
        for file in self.data_files:
            root = Path(file).resolve().parent
            path = (root / image).resolve()
            if not path.is_relative_to(root):
                raise ValueError(f"image {image!r} is outside {root}")
            if path.is_file():
                return path
        raise ValueError(f"image {image!r} does not exist")


def _is_empty(file: str) -> bool:
    """Whether a parquet file on this machine has no rows, which `datasets` would not say; it names a file that cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return "://" not in file and not pq.read_metadata(file).num_rows
    except (pa.ArrowException, OSError):
        return False
