# SPDX-License-Identifier: Apache-2.0
"""Where the images of a row stand: in a column, or in the turns of its dialogue."""

import ast
import json
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.corpora.record import images_of
from data_prep.corpus import SchemaError, Skip
from data_prep.image_forms import bare

IMAGES = ("images", "image")
OTHER_IMAGES = ("image_path", "image_paths", "img_path", "image_url", "image_urls", "img")
"""Columns of images that count only if the others are empty: some files keep the original path beside the image."""


def images(row: Mapping[str, Any], in_turns: Sequence[Any], texts: frozenset[str]) -> tuple[Any, ...] | Skip:
    """The images of a row, from its columns or else from its turns.

    SchemaError if two places disagree, or if a column that is not read seems to hold images; texts: the columns that may not.
    """
    if any(row.get(name) for name in ("video", "videos", "audio", "audios")):
        return Skip("video or audio")
    places = [(name, listed(row.get(name))) for name in IMAGES] + [("the turns", listed(list(in_turns)))]
    others = [(name, listed(row.get(name))) for name in OTHER_IMAGES]
    given = [place for place in places if place[1]] or [place for place in others if place[1]]
    found = given[0][1] if given else []
    if (rejected := listed(row.get("rejected_images"))) and rejected != found:
        return Skip("the two dialogues show different images")
    if not given:
        if unread := next((name for name, value in row.items() if name not in texts and _looks_like_image(value)), None):
            raise SchemaError(
                f"key {unread!r}: found what seems to be an image, and is not read; add --column image:{unread}, or remove the column"
            )
        return ()
    if any(other != found for _, other in given):
        raise SchemaError(
            f"key {given[0][0]!r}: found other images than in {' and '.join(name for name, _ in given[1:])}; keep those that are meant"
        )
    return tuple(found)


def listed(value: Any) -> list[Any]:
    """The images of a column that holds one, several or none, without the dicts around them. A text may be a list, as CSV files hold it."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(value)
                break
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    return [image for one in images_of(value) if (image := bare(one))]


def _looks_like_image(value: Any) -> bool:
    if isinstance(value, Mapping):
        return isinstance(value.get("bytes"), bytes)
    if isinstance(value, list):
        return bool(value) and _looks_like_image(value[0])
    if isinstance(value, bytes):
        return True
    suffixes = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
    return isinstance(value, str) and " " not in value[:300] and (value.lower().endswith(suffixes) or value.startswith("data:image/"))
