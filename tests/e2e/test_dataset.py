# SPDX-License-Identifier: Apache-2.0
"""The doors that need verl imported: the dataset over real parquet rows, and the parts of the reward in the log."""

from pathlib import Path

import pytest

from critic_r1_verl import rows


@pytest.fixture(scope="module")
def data(world: Path) -> Path:
    return world / "data"


def open_dataset(file: Path, tmp_path: Path, **config: object):
    from omegaconf import OmegaConf

    from critic_r1_verl.dataset import CriticDataset

    settings = OmegaConf.create({"filter_overlong_prompts": False, "cache_dir": str(tmp_path), **config})
    return CriticDataset(data_files=[str(file)], tokenizer=None, processor=object(), config=settings)


def test_every_row_arrives_with_its_picture(data: Path, tmp_path: Path) -> None:
    dataset = open_dataset(data / "train.parquet", tmp_path)
    built = rows.read_rows(data / "train.parquet")
    assert len(dataset) == len(built)
    for index, row in enumerate(built):
        item = dataset[index]
        picture, *texts = item["raw_prompt"][0]["content"]
        assert picture["type"] == "image" and Path(picture["image"]) == data / row["images"][0]
        assert "".join(part["text"] for part in texts) == row["prompt"][0]["content"].removeprefix("<image>")
        assert item["reward_model"] == row["reward_model"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row["images"].append(row["images"][0]), r"bad\.parquet: row 2: 1 placeholders in the prompt, 2 images"),
        (lambda row: row.update(images=["images/gone.png"]), r"bad\.parquet: row 2: image 'images/gone.png' does not exist"),
        (lambda row: row.update(images=["../../etc/passwd"]), r"bad\.parquet: row 2: image '\.\./\.\./etc/passwd' is outside"),
    ],
)
def test_a_bad_row_is_named(data: Path, tmp_path: Path, change, message: str) -> None:
    built = rows.read_rows(data / "train.parquet")
    change(built[2])
    rows.write_parquet(data / "bad.parquet", built)
    with pytest.raises(ValueError, match=message):
        open_dataset(data / "bad.parquet", tmp_path)


def test_a_missing_file_and_a_missing_column_are_named(data: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    with pytest.raises(FileNotFoundError, match=r"none\.parquet: no such data file; run `make prep`"):
        open_dataset(data / "none.parquet", tmp_path)
    rows.write_parquet(data / "empty.parquet", [])
    with pytest.raises(ValueError, match=r"empty\.parquet: no rows; to train without held-out rows, add data\.val_files=.*test_freq=-1"):
        open_dataset(data / "empty.parquet", tmp_path)
    table = pq.read_table(data / "train.parquet").drop_columns(["images"])
    pq.write_table(table, data / "columns.parquet")
    with pytest.raises(ValueError, match=r"columns\.parquet: no column 'images'"):
        open_dataset(data / "columns.parquet", tmp_path)


def test_filtering_uncounted_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="would drop rows without counting"):
        open_dataset(data / "train.parquet", tmp_path, filter_overlong_prompts=True)


@pytest.mark.parametrize(
    ("infos", "expected"),
    [
        ([], {}),
        (
            [{"acc": 1.0, "format": 1.0, "parsed": 1.0}, {"acc": 0.0, "format": 0.0, "parsed": 0.0}],
            {"reward/acc/mean": 0.5, "reward/format/mean": 0.5, "reward/unparsed/mean": 0.5},
        ),
    ],
)
def test_reward_parts(infos: list[dict], expected: dict) -> None:
    from critic_r1_verl.sampler import reward_metrics

    assert reward_metrics(infos) == expected


def test_the_report_draws_what_training_logs() -> None:
    """It once looked for a part of the reward under another name, and left its curve out."""
    from critic_r1_verl.report import page
    from critic_r1_verl.sampler import reward_metrics

    logged = reward_metrics([{"acc": 1.0, "format": 1.0, "parsed": 1.0}])
    assert {metric for metric, *_ in page.CURVES if metric.startswith("reward/")} == logged.keys()


def test_what_the_model_will_see(world: Path, monkeypatch: pytest.MonkeyPatch, quick_compose) -> None:
    """The doctor's first rows: the picture is in the prompt with its tokens, and without a word it is not under another image_key."""
    from critic_r1_verl.training.doctor import first_rows

    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    overrides = ["+recipe/base=tiny", "+recipe/hardware=cpu", f"actor_rollout_ref.model.path={world / 'base'}"]
    overrides += [f"data.{name}_files={world / 'data' / name}.parquet" for name in ("train", "val")]
    seen = first_rows.look("critic_r1", overrides)
    assert len(seen) == first_rows.NUM_ROWS
    for row in seen:
        width, height = map(int, row["sizes"][0].split(" x "))
        # A token is 28 x 28 pixels.
        assert row["images"] == 1 and row["image_tokens"] * 28 * 28 == width * height >= 56 * 56 and row["score"] == 1
        assert "<|image_pad|>" in row["text"] and row["answer"] in ("1", "2") and row["tokens"] > 8
    config = quick_compose("critic_r1", [*overrides, f"data.max_prompt_length={seen[0]['tokens'] - 1}"])
    assert any("more than data.max_prompt_length" in finding.what for finding in first_rows.judge(seen, config))
    blind = first_rows.look("critic_r1", [*overrides, "data.image_key=image"])
    assert [finding.level for finding in first_rows.judge(blind, config)].count("fatal") >= len(blind)
    with pytest.raises(KeyError, match="question"):
        first_rows.look("critic_r1", [*overrides, "data.prompt_key=question"])
