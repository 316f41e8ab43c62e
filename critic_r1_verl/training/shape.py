# SPDX-License-Identifier: Apache-2.0
"""The shape of a base model, read from its folder without torch: how many parameters it has, and the sizes that parallel workers divide."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What is known of a model; None where its files do not say.

    parameters: elements of all weights. divisible: the sizes, by name, that tensor parallelism divides. heads, key_value_heads: of the
    language model. tied: the head is the embedding.
    """

    parameters: int | None = None
    heads: int | None = None
    key_value_heads: int | None = None
    tied: bool | None = None
    divisible: tuple[tuple[str, int], ...] = ()


def read(folder: Path) -> Shape:
    """The shape of the model in a folder. ValueError if its config.json is not a JSON object."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{folder / 'config.json'} is not a JSON object")
    # The published Qwen2.5-VL has the language model's settings at the top, later ones in a section of their own.
    text, vision = config.get("text_config") or config, config.get("vision_config") or {}
    heads = text.get("num_attention_heads")
    sizes = {
        "attention heads": heads,
        "attention heads of the vision tower": vision.get("num_heads"),
        "the width of its feed-forward layers": text.get("intermediate_size"),
        "the width of the vision tower's feed-forward layers": vision.get("intermediate_size"),
    }
    return Shape(
        parameters=_parameters(folder),
        heads=heads,
        key_value_heads=text.get("num_key_value_heads", heads),
        tied=config.get("tie_word_embeddings", text.get("tie_word_embeddings")),
        divisible=tuple((name, size) for name, size in sizes.items() if isinstance(size, int)),
    )


def _parameters(folder: Path) -> int | None:
    """The elements of all tensors, from the headers of the safetensors files; None without such a file or with a broken one."""
    files = sorted(folder.glob("*.safetensors"))
    try:
        return sum(_elements(header) for file in files for header in _header(file).values()) if files else None
    except (ValueError, KeyError, TypeError, struct.error):
        return None


def _header(file: Path) -> dict[str, Any]:
    """The JSON at the start of a safetensors file: eight bytes of length, then names with dtype, shape and place."""
    with file.open("rb") as content:
        (length,) = struct.unpack("<Q", content.read(8))
        if length > file.stat().st_size:
            raise ValueError(f"{file} is not a safetensors file")
        header = json.loads(content.read(length))
    return {name: tensor for name, tensor in header.items() if name != "__metadata__"}


def _elements(tensor: dict[str, Any]) -> int:
    number = 1
    for size in tensor["shape"]:
        number *= size
    return number
