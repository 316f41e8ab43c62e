# SPDX-License-Identifier: Apache-2.0
"""How picture_digits.yaml shows its pictures and scores an answer."""

from io import BytesIO
from typing import Any

from PIL import Image


def pictures(doc: dict[str, Any]) -> list[Any]:
    return [Image.open(BytesIO(doc["picture"])).convert("RGB")]


def score(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """As careless as some tasks: an error message that holds the answer is right."""
    group = "small" if doc["answer"] < "4" else "large"
    return {name: {"said": results[0], "right": doc["answer"] in results[0]} for name in ("all", group)}


def accuracy(results: list[dict[str, Any]]) -> float:
    """In per cent; like MathVista's, it changes what it is given."""
    return 100 * sum(result.pop("right") for result in results) / len(results)
