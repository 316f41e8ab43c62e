# SPDX-License-Identifier: Apache-2.0
"""Checks of the base model: whether it is there and complete, and whether verl will give it images."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from critic_r1_verl import hub
from critic_r1_verl.training.doctor.finding import Case, Finding

# From verl 0.9.1, utils/tokenizer/tokenizer.py, hf_processor. verl replaces any other processor by None and then drops the images, with
# only a warning.
PROCESSORS = (
    "Qwen2VLProcessor",
    "Qwen2_5_VLProcessor",
    "Qwen3VLProcessor",
    "Glm4vProcessor",
    "Glm46VProcessor",
    "MllamaProcessor",
    "Gemma4Processor",
)

_HUB_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)?")


def check_base(case: Case) -> Iterator[Finding]:
    """Whether the base model is here, or in the hub's cache, or will be downloaded; one that is here is examined."""
    path = str(case.config.actor_rollout_ref.model.path)
    folder = Path(path)
    if folder.is_dir():
        yield from _examine_base(path, folder)
    elif "://" in path:
        yield Finding("warning", f"base {path} is not looked at, only local folders are")
    elif not _HUB_NAME.fullmatch(path) or (len(folder.parts) > 1 and folder.parent.is_dir()):
        yield Finding(
            "fatal",
            f"base {path}: no such folder",
            "build the small base with `make prep`, or set actor_rollout_ref.model.path to a model's folder or hub name",
        )
    elif snapshot := hub.cached(path):
        yield from _examine_base(path, snapshot)
    elif any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")):
        yield Finding(
            "fatal",
            f"base {path} is neither a folder nor complete in the hub's cache, and HF_HUB_OFFLINE forbids to download it",
            "unset HF_HUB_OFFLINE, or set actor_rollout_ref.model.path to a folder",
        )
    else:
        try:
            size = hub.readable(sum(hub.ask(path, "base").sizes.values()))
        except ValueError as error:
            yield Finding("fatal", str(error), "then start again, or set actor_rollout_ref.model.path to a folder")
        else:
            yield Finding("ok", f"base {path} will be downloaded from the hub when training starts ({size})")


def _examine_base(name: str, folder: Path) -> Iterator[Finding]:
    problem = _files_problem(folder)
    if problem:
        yield Finding("fatal", f"base {name}: {problem}", "download or export the model again, or correct actor_rollout_ref.model.path")
        return
    processor = _processor_class(folder)
    families = "Qwen2-VL, Qwen2.5-VL, Qwen3-VL, GLM-4V, GLM-4.6V, Gemma 4 and Mllama"
    if processor is None:
        what = f"base {name} has no processor, so it takes no images"
        yield Finding("fatal", what, f"take a vision-language model that verl accepts: {families}")
    elif processor not in PROCESSORS:
        what = f"base {name}: verl does not accept its processor {processor} and would go on without images"
        yield Finding("fatal", what, f"take a model of one of the families {families}")
    else:
        yield Finding("ok", f"base {name}: complete, {processor}")


def _files_problem(folder: Path) -> str:
    """The first file that is missing or broken, as a sentence; "" if the model is complete."""
    for file in (
        "config.json",
        "processor_config.json",
        "preprocessor_config.json",
        "tokenizer_config.json",
        "model.safetensors.index.json",
    ):
        try:
            if not isinstance(_read_json(folder / file), dict):
                return f"{file} is not a JSON object"
        except ValueError as error:
            return f"{file} is not JSON ({error})"
    if not (folder / "config.json").is_file():
        return "config.json is missing"
    weight_map = _read_json(folder / "model.safetensors.index.json").get("weight_map", {})
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        return "the weight_map of model.safetensors.index.json does not name a file for each weight"
    shards = set(weight_map.values())
    if missing := sorted(shard for shard in shards if not (folder / shard).is_file()):
        return f"{missing[0]} is missing ({len(missing)} of {len(shards)} weight files)"
    if not shards and not [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]:
        return "it has no weights (*.safetensors)"
    if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.json", "tokenizer.model")):
        return "it has no tokenizer (tokenizer.json)"
    return ""


def _processor_class(folder: Path) -> str | None:
    """The name of the class that AutoProcessor would load; None without a processor, "unknown" if its files do not name a class."""
    files = [_read_json(folder / file) for file in ("processor_config.json", "preprocessor_config.json")]
    if not any(files):
        return None
    named = [
        content["processor_class"] for content in (*files, _read_json(folder / "tokenizer_config.json")) if "processor_class" in content
    ]
    return str(named[0]) if named else "unknown"


def _read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
