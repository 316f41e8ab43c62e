# SPDX-License-Identifier: Apache-2.0
"""Checks of the base model: whether it is there and complete, and whether verl will give it images."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from critic_r1_verl import chat_template, hub
from critic_r1_verl.training import shape
from critic_r1_verl.training.doctor.finding import Case, Finding
from critic_r1_verl.verdict import THINK_TAGS

# From verl 0.9.1, utils/tokenizer/tokenizer.py, hf_processor. verl replaces any other processor by None and then drops the images, with
# only a warning.
PROCESSORS = (
    "Qwen2VLProcessor",
    "Qwen2_5_VLProcessor",
    "Qwen3VLProcessor",
    "Glm4vProcessor",
    "Glm46VProcessor",
    "Gemma4Processor",
)
FAMILIES = "Qwen2-VL, Qwen2.5-VL, Qwen3-VL, GLM-4V, GLM-4.6V and Gemma 4"
# Llama-3.2-Vision: verl accepts its processor, and fails when it asks its config for tie_word_embeddings.
MLLAMA = "MllamaProcessor"

_HUB_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)?")


def check_base(case: Case) -> Iterator[Finding]:
    """Whether the base model is here, or in the hub's cache, or will be downloaded; one that is here is examined."""
    path = str(case.config.actor_rollout_ref.model.path)
    folder = Path(path)
    if folder.is_dir():
        yield from _examine_base(case, path, folder)
    elif "://" in path:
        yield Finding("warning", f"base {path} is not looked at, only local folders are")
    elif not _HUB_NAME.fullmatch(path) or (len(folder.parts) > 1 and folder.parent.is_dir()):
        yield Finding(
            "fatal",
            f"base {path}: no such folder",
            "build the small base with `make prep`, or set actor_rollout_ref.model.path to a model's folder or hub name",
        )
    elif snapshot := hub.cached(path):
        yield from _examine_base(case, path, snapshot)
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


def base_folder(path: str) -> Path | None:
    """The folder of a base that is here, by its path or in the hub's cache; None for one that is not."""
    if Path(path).is_dir():
        return Path(path)
    return hub.cached(path) if _HUB_NAME.fullmatch(path) else None


def _examine_base(case: Case, name: str, folder: Path) -> Iterator[Finding]:
    problem = _files_problem(folder)
    if problem:
        yield Finding("fatal", f"base {name}: {problem}", "download or export the model again, or correct actor_rollout_ref.model.path")
        return
    processor = _processor_class(folder)
    if processor is None:
        what = f"base {name} has no processor, so it takes no images"
        yield Finding("fatal", what, f"take a vision-language model that verl accepts: {FAMILIES}")
    elif processor == MLLAMA:
        what = (
            f"base {name} (Mllama, Llama-3.2-Vision) cannot be trained: vLLM dropped it after 0.10.2, and verl 0.9 needs vLLM 0.18 or later"
        )
        yield Finding("fatal", what, f"take a model of one of the families {FAMILIES}")
    elif processor not in PROCESSORS:
        what = f"base {name}: verl does not accept its processor {processor} and would go on without images"
        yield Finding("fatal", what, f"take a model of one of the families {FAMILIES}")
    else:
        problems = [*_parallel_problems(case.config, name, shape.read(folder)), *_thought_problems(case.config, name, folder)]
        yield from problems or [Finding("ok", f"base {name}: complete, {processor}")]


def _parallel_problems(config: Any, name: str, base: shape.Shape) -> Iterator[Finding]:
    """Whether parallel workers can divide the model, and whether verl's fused kernels can read its head."""
    part = config.actor_rollout_ref
    workers, sequence = part.rollout.tensor_model_parallel_size, part.actor.get("ulysses_sequence_parallel_size", 1)
    uneven = [f"{size} ({what})" for what, size in base.divisible if size % workers]
    key_values = base.key_value_heads or workers
    if key_values % workers and workers % key_values:
        uneven.append(f"{key_values} (key-value heads)")
    key = "actor_rollout_ref.rollout.tensor_model_parallel_size"
    if uneven:
        yield Finding("fatal", f"base {name}: {key}={workers} does not divide {', '.join(uneven)}", f"set {key} to a divisor, 1 at least")
    if base.heads and base.heads % sequence:
        key = "actor_rollout_ref.actor.ulysses_sequence_parallel_size"
        yield Finding("fatal", f"base {name}: {key}={sequence} does not divide {base.heads} attention heads", f"set {key} to a divisor")
    if part.model.use_fused_kernels and part.actor.strategy == "fsdp2" and base.tied is not True:
        yield Finding(
            "fatal",
            f"base {name}: actor_rollout_ref.model.use_fused_kernels, fsdp2 and a head that is not tied fail together in verl 0.9.1",
            "add actor_rollout_ref.model.use_fused_kernels=false",
        )


def _thought_problems(config: Any, name: str, folder: Path) -> Iterator[Finding]:
    """Whether the reward sees a thought where the model states it: what the chat template opens, and what decoding leaves out."""
    special = [
        token["content"]
        for token in _read_json(folder / "tokenizer.json").get("added_tokens") or ()
        if token.get("special") and token.get("content") in THINK_TAGS
    ]
    if special:
        what = f"base {name}: its tokenizer holds {special[0]} for a special token, which verl leaves out of the text that is rewarded"
        yield Finding("fatal", what, 'set "special": false for it in tokenizer.json and tokenizer_config.json')
    template = config.actor_rollout_ref.model.custom_chat_template or chat_template.read(folder)
    if not template:
        yield Finding(
            "fatal",
            f"base {name} has no chat template",
            "take the instruct model, or name a template by actor_rollout_ref.model.custom_chat_template",
        )
        return
    try:
        opened = chat_template.opens_thought(template, THINK_TAGS, **dict(config.data.get("apply_chat_template_kwargs") or {}))
    except ValueError as error:
        yield Finding("warning", f"base {name}: its chat template was not rendered here: {error}", "see that it is one")
        return
    if opened != config.critic_r1.thought_opened:
        said = "opens the think block in the prompt, and no answer would earn the format" if opened else "does not open the think block"
        what = f"base {name}: its chat template {said}; critic_r1.thought_opened is {str(not opened).lower()}"
        yield Finding("fatal", what, f"add critic_r1.thought_opened={str(opened).lower()}")


def _files_problem(folder: Path) -> str:
    """The first file that is missing or broken, as a sentence; "" if the model is complete."""
    for file in (
        "config.json",
        "processor_config.json",
        "preprocessor_config.json",
        "chat_template.json",
        "tokenizer.json",
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
