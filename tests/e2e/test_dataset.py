# SPDX-License-Identifier: Apache-2.0
"""The doors that need verl imported: the dataset over real parquet rows, and the sampler over a batch of scored rollouts."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from critic_r1_verl import rows
from critic_r1_verl.reward import compute_score


@pytest.fixture(scope="module")
def data(world: Path) -> Path:
    return world / "data"


def open_dataset(
    file: Path, tmp_path: Path, *, validate: bool = False, val_orders: str = "both", train: dict | None = None, **config: Any
) -> Any:
    """The dataset of a file, for training, or to validate on it; train: what differs from critic_r1 in critic_r1.rows."""
    from omegaconf import OmegaConf

    from critic_r1_verl.dataset import CriticDataset

    settings = {
        "filter_overlong_prompts": False,
        "cache_dir": str(tmp_path),
        "train_files": "another.parquet" if validate else str(file),
        "train_batch_size": 8,
        "val_batch_size": 256,
        "shuffle": False,
        "custom_cls": {"train": {"stages": [{"pair": 1.0}]} | (train or {}), "val_orders": val_orders},
    }
    return CriticDataset(data_files=[str(file)], tokenizer=None, processor=object(), config=OmegaConf.create(settings | config))


def items(dataset: Any) -> list[dict]:
    return [dataset[index] for index in range(len(dataset))]


@pytest.fixture(scope="module")
def built(data: Path) -> dict[str, rows.Row]:
    """The training rows by the id of their record."""
    return {row["extra_info"]["pair_id"]: row for row in rows.read_rows(data / "train.parquet")}


def shown(item: dict) -> str:
    picture, *texts = item["raw_prompt"][0]["content"]
    assert picture["type"] == "image"
    return "".join(part["text"] for part in texts)


def test_every_pair_arrives_with_its_picture(data: Path, tmp_path: Path, built: dict[str, rows.Row]) -> None:
    found = items(open_dataset(data / "train.parquet", tmp_path))
    pairs = {name: row for name, row in built.items() if row["ability"] == "critic"}
    assert {item["extra_info"]["pair_id"] for item in found} == pairs.keys() and len(found) == len(pairs) < len(built)
    for item in found:
        row = pairs[item["extra_info"]["pair_id"]]
        assert Path(item["raw_prompt"][0]["content"][0]["image"]) == data / row["images"][0]
        assert shown(item) == row["prompt"][0]["content"].removeprefix("<image>")
        assert item["reward_model"] == row["reward_model"] and item["data_source"] == "digits"


def test_stages_follow_each_other_and_questions_have_a_source_of_their_own(data: Path, tmp_path: Path) -> None:
    dataset = open_dataset(data / "train.parquet", tmp_path, train={"stages": [{"question": 1.0}, {"pair": 1.0}], "number": 16})
    assert [item["data_source"] for item in items(dataset)] == ["digits/policy"] * 8 + ["digits"] * 8
    again = open_dataset(data / "train.parquet", tmp_path, train={"stages": [{"question": 1.0}, {"pair": 1.0}], "number": 16})
    assert [item["extra_info"] for item in items(again)] == [item["extra_info"] for item in items(dataset)]


def test_a_resumed_training_goes_on_in_the_sequence(data: Path, tmp_path: Path) -> None:
    from torchdata.stateful_dataloader import StatefulDataLoader
    from verl.trainer.ppo.utils import create_rl_sampler
    from verl.utils.dataset.rl_dataset import collate_fn

    settings = {"stages": [{"question": 1.0}, {"pair": 1.0}], "orders": "together", "number": 24}

    def batches() -> StatefulDataLoader:
        # As verl makes it, trainer/ppo/v1/trainer_base.py.
        dataset = open_dataset(data / "train.parquet", tmp_path, train=settings)
        return StatefulDataLoader(dataset, 8, drop_last=True, collate_fn=collate_fn, sampler=create_rl_sampler(dataset.config, dataset))

    def ids(batch: dict) -> list[tuple[str, str]]:
        return [(extra["pair_id"], extra["order"]) for extra in batch["extra_info"]]

    whole = batches()
    first, *rest = map(ids, whole)
    interrupted, resumed = batches(), batches()
    assert ids(next(iter(interrupted))) == first
    resumed.load_state_dict(interrupted.state_dict())
    assert list(map(ids, resumed)) == rest and len(rest) == 2


@pytest.mark.parametrize("validate", [False, True])
def test_the_other_order_is_made_of_the_record(data: Path, tmp_path: Path, built: dict[str, rows.Row], validate: bool) -> None:
    found = items(open_dataset(data / "train.parquet", tmp_path, validate=validate, train={"orders": "together"}))
    pairs = [item for item in found if item["extra_info"]["style"] == "verdict"]
    assert bool(len(found) - len(pairs)) is validate
    for one, other in zip(pairs[::2], pairs[1::2], strict=True):
        assert one["extra_info"]["pair_id"] == other["extra_info"]["pair_id"]
        assert [item["extra_info"]["order"] for item in (one, other)] == ["12", "21"]
        assert {item["reward_model"]["ground_truth"] for item in (one, other)} == {"1", "2"}
        first, second = (re.search("Response 1: (.*)\nResponse 2: (.*)\n", shown(item)).groups() for item in (one, other))
        assert first == second[::-1]
        for item in (one, other):
            row = built[item["extra_info"]["pair_id"]]
            if item["extra_info"]["order"] == row["extra_info"]["order"]:
                assert shown(item) == row["prompt"][0]["content"].removeprefix("<image>")


def test_the_coin_takes_the_place_of_training_labels_alone(data: Path, tmp_path: Path, built: dict[str, rows.Row]) -> None:
    from critic_r1_verl.mixture import coin

    found = items(open_dataset(data / "train.parquet", tmp_path, train={"labels": "coin", "orders": "both"}))
    assert all(item["reward_model"]["ground_truth"] == coin(item["extra_info"]["pair_id"], item["extra_info"]["order"]) for item in found)
    held_out = items(open_dataset(data / "train.parquet", tmp_path, validate=True, val_orders="built", train={"labels": "coin"}))
    assert all(item["reward_model"] == built[item["extra_info"]["pair_id"]]["reward_model"] for item in held_out)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": {"stages": [{"text_pair": 1.0}]}}, r"train\.parquet: no row of the kind 'text_pair'.*pairs without an image"),
        ({"train": {"times": 2.0}}, r"train\.parquet: 32 rows of the kind 'pair' are asked for .*, and there are 16"),
        ({"train": {"ties": False}}, r"train\.parquet: critic_r1\.rows\.ties=false leaves out no row"),
        ({"train": {"order": "both"}}, r"critic_r1\.rows: .*'order'"),
        ({"train": {"orders": "together"}, "shuffle": True}, r"sequence of the rows is a part of this recipe .*data\.shuffle=false"),
        ({"train": {"orders": "together"}, "train_batch_size": 5}, r"in different batches of 5 rows; take an even number"),
        ({"validate": True, "val_batch_size": 5}, r"in different batches of 5 rows; take an even number"),
        ({"validate": True, "val_orders": "some"}, r"critic_r1\.val_orders=some: give one of built, both"),
    ],
)
def test_what_the_recipe_asks_for_and_cannot_have_is_said(data: Path, tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_dataset(data / "train.parquet", tmp_path, **settings)


def test_rows_that_are_not_made_of_the_records_have_no_other_order(data: Path, tmp_path: Path) -> None:
    both, table = {"train": {"orders": "both"}}, rows.read_rows(data / "train.parquet")
    table[2]["prompt"][0]["content"] += " Be brief."
    rows.write_parquet(data / "edited.parquet", table)
    with pytest.raises(ValueError, match=r"edited\.parquet: pair [0-9a-f]{20}: its row is not made of its record; build the data again"):
        open_dataset(data / "edited.parquet", tmp_path, **both)
    table[2]["extra_info"]["pair_id"] = "0" * 20
    rows.write_parquet(data / "strange.parquet", table)
    with pytest.raises(
        ValueError, match=r"strange\.parquet: pair 0{20} or its template is not in records\.jsonl .*critic_r1\.val_orders=built"
    ):
        open_dataset(data / "strange.parquet", tmp_path, **both)
    alone = tmp_path / "alone"
    shutil.copytree(data / "images", alone / "images")
    (alone / "train.parquet").write_bytes((data / "train.parquet").read_bytes())
    assert len(open_dataset(alone / "train.parquet", tmp_path)) == 16
    with pytest.raises(ValueError, match=r"manifest\.json: cannot be read"):
        open_dataset(alone / "train.parquet", tmp_path, **both)


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


class Queue:
    """A transfer queue with one batch: 2 rollouts of each row, of which the first says "1" and the second is right."""

    def __init__(self, table: list[dict]) -> None:
        import torch
        from verl.utils.tensordict_utils import list_of_dict_to_tensordict

        self.stored: dict[str, dict] = {}
        for number, row in enumerate(table):
            for session, said in enumerate(("1", row["reward_model"]["ground_truth"])):
                text = f"<think>a</think>\\boxed{{{said}}}"
                info = compute_score("", text, row["reward_model"]["ground_truth"], row["extra_info"])
                scores = torch.zeros(3 + number % 2)
                scores[-1] = info["score"]
                self.stored[f"{number:08x}-1_{session}_0"] = {
                    "extra_fields": {"reward_extra_info": info, "turns": 1},
                    "extra_info": row["extra_info"],
                    "reward_model": row["reward_model"],
                    "data_source": row["data_source"],
                    "rm_scores": scores,
                    "responses": torch.tensor(list(text.encode())),
                    "uid": f"{number:08x}-1",
                }
        self.to_tensordict = list_of_dict_to_tensordict

    def kv_batch_get(self, keys: list[str], partition_id: str, select_fields: list[str]) -> Any:
        return self.to_tensordict([{name: self.stored[key][name] for name in select_fields} for key in keys])

    def kv_batch_put(self, keys: list[str], partition_id: str, fields: Any) -> None:
        names = fields.keys()
        for name in names:
            values = list(fields[name]) if name == "rm_scores" else fields.get(name).tolist()
            for key, value in zip(keys, values, strict=True):
                self.stored[key][name] = value

    def sampled(
        self, monkeypatch: pytest.MonkeyPatch, partition: str = "train", *, buffer: type | None = None, mode: str = "sync", **settings: Any
    ) -> dict[str, float]:
        """The metrics of a batch with all rollouts, from a buffer of this type (RewardPartsReplayBuffer)."""
        from omegaconf import OmegaConf
        from transfer_queue import KVBatchMeta
        from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

        from critic_r1_verl import sampler

        batch = KVBatchMeta(partition_id=partition, keys=list(self.stored), tags=[{"response_len": 5} for _ in self.stored])
        monkeypatch.setattr(sampler, "tq", self)
        monkeypatch.setattr(ReplayBuffer, "sample", lambda *_, **__: (batch, {"verl": 1.0}))
        settings = {"paid": "acc", "group": "prompt", "accuracy_weight": 0.9, "filter_groups": {"enable": False}} | settings
        sampling = (buffer or sampler.RewardPartsReplayBuffer)(
            trainer_mode=mode,
            trainer_config=None,
            max_off_policy_threshold=None,
            max_off_policy_strategy="drop",
            sampler_kwargs=OmegaConf.create(settings),
        )
        return sampling.sample(1, partition, len(batch.keys))[1]

    def column(self, name: str) -> list[Any]:
        return [fields[name] for fields in self.stored.values()]

    def scores(self) -> list[float]:
        return [float(scores.sum()) for scores in self.column("rm_scores")]


@pytest.fixture
def table(data: Path, tmp_path: Path) -> list[dict]:
    """Two pairs in both orders, and a question whose answer is no "1"."""
    dataset = open_dataset(data / "train.parquet", tmp_path, validate=True)
    found = items(dataset)
    return found[:4] + [item for item in found if item["extra_info"]["order"] == "" and item["reward_model"]["ground_truth"] != "1"][:1]


def test_the_right_verdict_is_paid_by_default(table: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(table)
    before, uids = queue.scores(), queue.column("uid")
    metrics = queue.sampled(monkeypatch)
    assert (queue.scores(), queue.column("uid")) == (before, uids)
    expected = {"acc": 0.7, "digits/acc": 0.75, "digits/policy/acc": 0.5, "strict": 0.5, "consistent": 0.5, "first": 0.75, "unparsed": 0}
    assert {part: metrics[f"reward/{part}/mean"] for part in expected} == pytest.approx(expected) and metrics["verl"] == 1


@pytest.mark.parametrize("paid", ["strict", "consistent"])
def test_a_verdict_is_paid_for_both_orders(table: list[dict], monkeypatch: pytest.MonkeyPatch, paid: str) -> None:
    queue = Queue(table)
    queue.sampled(monkeypatch, paid=paid)
    # The first rollout of each order says "1", so the two disagree; the question is paid as ever.
    assert queue.scores() == pytest.approx([0.1, 1.0] * 4 + [0.1, 1.0])


def test_both_orders_share_a_group_and_the_question_keeps_its_own(table: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(table)
    queue.sampled(monkeypatch, group="pair")
    groups = queue.column("uid")
    assert groups[:4] == [table[0]["extra_info"]["pair_id"]] * 4 and groups[4:8] == [table[2]["extra_info"]["pair_id"]] * 4
    assert groups[8:] == [f"{4:08x}-1"] * 2
    with pytest.raises(ValueError, match="needs both orders of each pair in one step"):
        Queue(table[:1] + table[2:3]).sampled(monkeypatch, group="pair")


def test_verl_compares_the_rollouts_of_one_uid_whatever_their_keys() -> None:
    """Else a group of both orders would be none, without a word."""
    import numpy as np
    import torch
    from verl import DataProto
    from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

    rewards, mask = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]]), torch.ones(4, 2)
    tensors = {"token_level_rewards": rewards, "response_mask": mask, "advantages": mask}
    keys = ["a-1_0_0", "a-1_1_0", "b-1_0_0", "b-1_1_0"]
    found = {}
    for name, uids in (("prompt", ["a-1", "a-1", "b-1", "b-1"]), ("pair", ["pair"] * 4)):
        data = DataProto.from_dict(tensors, {"uid": np.array(uids, dtype=object)})
        done = compute_advantage_for_multi_trajectories(data, batch_keys=keys, adv_estimator="grpo")
        found[name] = done.batch["advantages"][:, 0].tolist()
    assert found["prompt"] == pytest.approx([0, 0, 0.707, -0.707], abs=1e-3)
    assert found["pair"] == pytest.approx([0.5, 0.5, 0.5, -1.5], abs=1e-3)


def test_validation_is_told_what_both_orders_say(table: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(table)
    assert queue.sampled(monkeypatch, "val", paid="strict", group="pair") == {"verl": 1.0}
    told = [fields["reward_extra_info"] for fields in queue.column("extra_fields")]
    assert [info.get("strict") for info in told] == [0, 1] * 4 + [None, None]
    assert {(info["pair_id"], info["order"]) for info in told} == {
        (row["extra_info"]["pair_id"], row["extra_info"]["order"]) for row in table
    }
    assert {info["response_tokens"] for info in told} == {5.0}
    assert [info["score"] for info in told] == pytest.approx(queue.scores())


def test_filtering_reaches_verls_buffer(table: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    """verl gives these settings to its own buffer alone."""
    from omegaconf import OmegaConf

    from critic_r1_verl import sampler

    groups = {"enable": True, "metric": "acc", "max_inflight_gen_batches": 2}
    found = sampler._filtering(OmegaConf.create({"filter_groups": groups, "train_batch_size": 16}))
    assert found == {"filter_groups_metric": "acc", "max_inflight_gen_batches": 2, "train_batch_size": 16, "gen_batch_size": 1}


def test_the_report_draws_what_training_logs(table: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    """It once looked for a part of the reward under another name, and left its curve out."""
    from critic_r1_verl.report import page

    assert {metric for metric, *_ in page.CURVES if metric.startswith("reward/")} <= Queue(table).sampled(monkeypatch).keys()


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


def test_a_critic_pays_for_answers_and_their_truth_does_not(
    table: list[dict], data: Path, monkeypatch: pytest.MonkeyPatch, scripted, quick_compose
) -> None:
    """The critic prefers the wrong answer; the verdicts on pairs, and all of validation, are paid by rule as ever."""
    from omegaconf import OmegaConf

    from critic_r1_verl import critic_sampler
    from critic_r1_verl.critic_reward import judging

    class Buffer(critic_sampler.CriticRewardReplayBuffer):
        _tokenizer = SimpleNamespace(decode=lambda ids, **_: bytes(ids.tolist()).decode())

    def wrong_one(prompt: str, _: int) -> str:
        return "\\boxed{1}" if "Response 1: a\\boxed{1}" in prompt else "\\boxed{2}"

    critics = [scripted(wrong_one)]
    monkeypatch.setattr(judging, "engine", lambda settings, served_at: critics[-1])
    monkeypatch.setattr(critic_sampler, "_served_by_verl", lambda: "")
    composed = quick_compose("critic_reward", [f"data.train_files={data / 'train.parquet'}"]).trainer.v1.sampler.sampler_kwargs
    settings = {"buffer": Buffer, **OmegaConf.to_container(composed, resolve=True)}
    queue = Queue(table)
    before = queue.scores()
    assert queue.sampled(monkeypatch, "val", **settings).keys() == {"verl"} and queue.scores() == before and critics[-1].asked == []
    metrics = queue.sampled(monkeypatch, **settings)
    assert before[-2:] == pytest.approx([0.1, 1.0]) and queue.scores() == pytest.approx([*before[:-2], 1.0, 0.1])
    assert (metrics["judge/agreement"], metrics["reward/digits/policy/acc/mean"], len(critics[-1].asked)) == (0, 0.5, 2)
    assert all(len(request.images) == 1 and request.images[0].is_file() for request in critics[-1].asked)

    settings["judge"] |= {"verdicts": "truth"}
    again = Queue(table)
    assert "judge/win" not in again.sampled(monkeypatch, **settings) and again.scores() == before
    settings["judge"] |= {"verdicts": "critic"}

    critics.append(scripted(lambda *_: "I cannot say"))
    with pytest.raises(ValueError, match="gave no verdict in 2 of 2 cases"):
        queue.sampled(monkeypatch, **settings)
    with pytest.raises(ValueError, match=r"a critic rewards whole steps: .* trainer\.v1\.trainer_mode=sync"):
        queue.sampled(monkeypatch, mode="separate_async", **settings)
    with pytest.raises(ValueError, match=r"algorithm\.filter_groups\.enable=false"):
        queue.sampled(monkeypatch, **settings | {"filter_groups": {"enable": True}})
    for fields in queue.stored.values():
        fields["extra_fields"] = {}
    with pytest.raises(ValueError, match="neither the ids nor the answers"):
        queue.sampled(monkeypatch, **settings)
