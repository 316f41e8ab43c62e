# SPDX-License-Identifier: Apache-2.0
"""The shape of a base model, read from its folder without torch: how many parameters it has, and the sizes that parallel workers divide."""

import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BILLIONS = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)[Bb](?![A-Za-z])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What is known of a model; None where its files do not say.

    model_type: its family, as in config.json. parameters: elements of all weights. divisible: the sizes, by name, that tensor parallelism
    divides. heads, key_value_heads, head_size, layers, vocabulary: of the language model. tied: the head is the embedding.
    """

    model_type: str | None = None
    parameters: int | None = None
    heads: int | None = None
    key_value_heads: int | None = None
    head_size: int | None = None
    layers: int | None = None
    vocabulary: int | None = None
    tied: bool | None = None
    divisible: tuple[tuple[str, int], ...] = ()

    def cache_bytes(self, tokens: int) -> int | None:
        """Bytes of the keys and values of so many tokens in half precision."""
        if self.layers is None or self.key_value_heads is None or self.head_size is None:
            return None
        keys_and_values, half = 2, 2
        return keys_and_values * half * self.layers * self.key_value_heads * self.head_size * tokens


def read(folder: Path) -> Shape:
    """The shape of the model in a folder. ValueError if its config.json is not a JSON object."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{folder / 'config.json'} is not a JSON object")
    # The published Qwen2.5-VL has the language model's settings at the top, later ones in a section of their own.
    text, vision = config.get("text_config") or config, config.get("vision_config") or {}
    heads, hidden = text.get("num_attention_heads"), text.get("hidden_size")
    sizes = {
        "attention heads": heads,
        "attention heads of the vision tower": vision.get("num_heads"),
        "the width of its feed-forward layers": text.get("intermediate_size"),
        "the width of the vision tower's feed-forward layers": vision.get("intermediate_size"),
    }
    return Shape(
        model_type=config.get("model_type"),
        parameters=_parameters(folder),
        heads=heads,
        key_value_heads=text.get("num_key_value_heads", heads),
        head_size=text.get("head_dim") or (hidden // heads if hidden and heads else None),
        layers=text.get("num_hidden_layers"),
        vocabulary=text.get("vocab_size"),
        tied=config.get("tie_word_embeddings", text.get("tie_word_embeddings")),
        divisible=tuple((name, size) for name, size in sizes.items() if isinstance(size, int)),
    )


def by_name(name: str) -> Shape:
    """What the name of a model that is not here tells: 7B is 7 billion parameters, in truth a few more."""
    found = _BILLIONS.findall(name.rsplit("/", 1)[-1])
    return Shape(parameters=int(float(found[0]) * 1e9) if found else None)


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
