# SPDX-License-Identifier: Apache-2.0
"""CriticDataset, which verl loads through `data.custom_cls`: verl's RLHFDataset for the rows of rows.py.

It checks every row before the first rollout and raises an error that names the bad one, while verl's filter prints an error and drops it.
"""

import re
from pathlib import Path
from typing import Any

from verl.utils.dataset.rl_dataset import RLHFDataset

from critic_r1_verl.data_folder import without_held_out

COLUMNS = ("data_source", "prompt", "images", "reward_model", "extra_info")
PLACEHOLDER = re.compile("<image>|<video>|<audio>")


class CriticDataset(RLHFDataset):
    """Rows whose image paths are relative to the folder of their parquet file. `raw_prompt` gets absolute, checked paths.

    FileNotFoundError for a missing data file. ValueError, with file and row, for a missing column, for different numbers of placeholders
    and images, and for an image that is missing or outside the folder of its data file.
    """

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
