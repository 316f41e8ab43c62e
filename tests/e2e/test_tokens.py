# SPDX-License-Identifier: Apache-2.0
"""Prompt tokens: counted as the processor counts them, and what the build does with the long ones."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from critic_r1_verl import images, tokens
from critic_r1_verl.images import Limits
from data_prep import build
from data_prep.options import Corpus, Options

TEXTS = ["Which of the two is better? Think, then answer 1 or 2.", "The plate is blue.\nÜber 3 cups \\boxed{tie}"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    import base

    base.build(TEXTS * 5, folder, base.Size(hidden=64, layers=1, vision_hidden=32, vision_layers=1))
    return folder


@pytest.fixture(scope="module")
def processor(base: Path) -> Any:
    return tokens.load_processor(str(base))


def some_rows(root: Path) -> list[dict[str, Any]]:
    rng = random.Random(0)
    sizes = [(56, 56), (4, 700), (900, 30), (5, 5), (900, 700), (29, 41), (333, 55)]
    for number, size in enumerate(sizes):
        Image.new("RGB", size).save(root / f"{number}.png")
    rows = []
    for number in range(24):
        images = [f"{rng.randrange(len(sizes))}.png" for _ in range(rng.choice((1, 1, 2, 3)))]
        text = " ".join(rng.choices(["plate", "<cat>", "ünï", "42", "\n\n", "日本", "< image >", "\\boxed{1}"], k=rng.randrange(1, 60)))
        content = "<image>\n" * len(images) + text
        rows.append({"images": images, "prompt": [{"role": "user", "content": content}], "extra_info": {"pair_id": str(number)}})
    return rows


def test_equal_to_the_full_processor(tmp_path: Path, processor: Any) -> None:
    rows = some_rows(tmp_path)
    meter = tokens.meter(processor, tmp_path)
    assert tokens.check(meter, processor, rows, tmp_path) == len(rows)
    with pytest.raises(ValueError, match=r"the processor gives .* --no-lengths"):
        tokens.check(replace(meter, before="x" + meter.before), processor, rows, tmp_path)


def test_a_base_that_is_not_here_is_not_downloaded_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"owner/model-that-is-nowhere: .*HF_HUB_OFFLINE.* or build without .* --no-lengths"):
        tokens.load_processor("owner/model-that-is-nowhere")
    with pytest.raises(ValueError, match="holds no processor"):
        tokens.load_processor(str(tmp_path))


def test_the_build_drops_long_prompts_with_a_count(tmp_path: Path, base: Path) -> None:
    rows = []
    for number in range(20):
        Image.new("RGB", (56, 56), (number, 0, 0)).save(tmp_path / f"{number}.png")
        long = "plate " * 2000 if number % 5 == 0 else "It is blue."
        rows.append({"image": f"{number}.png", "question": f"What is it? {number}", "chosen": long, "rejected": "It is red."})
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = Corpus(converter="pairs", location=str(tmp_path / "pairs.jsonl"))
    options = Options(base=str(base), max_prompt_tokens=900, pixels=(3136, 200_704), val=2)
    manifest = build.build(tmp_path / "out", [corpus], options)
    counts = manifest["corpora"]["pairs"]["counts"]
    assert (counts["read"], counts["kept"], counts["skipped"]) == (20, 16, {"prompt too long": 4})
    found = manifest["lengths"]
    assert (found["tokenizer"], found["max_prompt_tokens"], found["dropped"], found["checked"]) == (str(base), 900, 4, 8)
    assert 0 < found["min"] <= found["median"] <= found["p95"] <= found["max"] <= 900


def test_the_size_rule_is_the_processors_own() -> None:
    from qwen_vl_utils.vision_process import smart_resize as fetched
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as processed

    for width in range(28, 1200, 53):
        for height in range(28, 1200, 71):
            for limits in (Limits(56 * 56, 280 * 280), Limits(262_144, 4_194_304), Limits(32 * 32, 640 * 640, 32)):
                ours = images.smart_resize(width, height, limits)
                arguments = (height, width, limits.factor, limits.min_pixels, limits.max_pixels)
                assert ours == fetched(*arguments)[::-1] == processed(*arguments)[::-1]
                stored = limits.fit(width, height)
                assert images.smart_resize(*stored, limits) == ours, "storing does not change what the processor makes of it"
