# SPDX-License-Identifier: Apache-2.0
"""Reads a chat request: what goes to the upstream, how many answers to sample, what the judge is asked, or why nothing is selected."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from critic_r1_verl import images
from critic_r1_verl.gateway.errors import Failure
from critic_r1_verl.gateway.settings import Settings
from critic_r1_verl.gateway.upstream import json_bytes

_OURS = ("best_of", "return_candidates")
_SPEAKERS = {"system": "System", "developer": "System", "user": "User", "assistant": "Assistant"}
# Fields whose answers cannot be compared as texts, unless they have a value that asks for nothing.
_UNSELECTABLE = ("tools", "tool_choice", "functions", "function_call", "logprobs", "top_logprobs", "audio", "modalities")
_NOTHING: tuple[Any, ...] = (None, False, [], "none", ["text"])


@dataclass(frozen=True, slots=True)
class Ask:
    """A chat request. body: what the upstream gets, and content the same as the client sent it, if nothing had to be changed.

    passed: why the upstream alone answers it, or None if one of best_of answers is selected: then the judge is asked the question, which
    has earlier turns folded in, about these images (content parts).
    """

    body: dict[str, Any]
    content: bytes
    best_of: int
    passed: str | None
    return_candidates: bool
    question: str
    images: tuple[dict[str, Any], ...]

    @property
    def stream(self) -> bool:
        return self.body.get("stream") is True

    @property
    def include_usage(self) -> bool:
        options = self.body.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True


def read(raw: bytes, settings: Settings) -> Ask:
    """The request in the body of a POST. Failure with status 400 says which field is wrong; an image file is read."""
    body = json_object(raw)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise Failure(400, "messages must be a list of at least one message", param="messages")
    best_of = settings.samples if body.get("best_of") is None else body["best_of"]
    if type(best_of) is not int or not 1 <= best_of <= settings.max_samples:
        raise Failure(400, f"best_of must be a whole number from 1 to {settings.max_samples}", param="best_of")
    return_candidates = body.get("return_candidates")
    if return_candidates not in (None, False, True):
        raise Failure(400, "return_candidates must be true or false", param="return_candidates")
    changed = [name for name in _OURS if name in body]
    for name in changed:
        del body[name]
    for part, where in _parts(messages):
        changed += _with_data(part, where, settings)
    if settings.model and not body.get("model"):
        body["model"] = settings.model
        changed.append("model")
    passed = _reason(body, best_of)
    question, shown = ("", ()) if passed else folded(messages)
    return Ask(body, json_bytes(body) if changed else raw, best_of, passed, bool(return_candidates), question, shown)


def json_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in a body. Failure if it is none."""
    import orjson

    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Failure(400, f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise Failure(400, "the body must be a JSON object")
    return body


def folded(messages: Sequence[dict[str, Any]]) -> tuple[str, tuple[dict[str, Any], ...]]:
    """The dialogue as one question, in the form of the training data (data_prep/turns.py), and the image parts in their order.

    The judge sees the images before the text. If there are several, [image 1], [image 2], ... say where they stood, except where all stand
    before the text of a single turn.
    """
    shown = tuple(part for part, _ in _parts(messages) if part.get("type") == "image_url")
    turns: list[tuple[str, list[str]]] = []
    number = 0
    for message in messages:
        content = message.get("content")
        texts = [content] if isinstance(content, str) else []
        for part in content if isinstance(content, list) else []:
            if part.get("type") == "image_url":
                number += 1
                texts.append(f"[image {number}]" if len(shown) > 1 else "")
            else:
                texts.append(part.get("text") or part.get("refusal") or "")
        turns.append((_SPEAKERS[message["role"]], texts))
    turns = [(speaker, texts) for speaker, texts in turns if speaker != "System" or any(texts)]
    if len(turns) == 1:
        [(_, texts)] = turns
        marks = [f"[image {number}]" for number, _ in enumerate(shown, 1)]
        if texts[: len(marks)] == marks:
            texts = texts[len(marks) :]
        return "\n".join(filter(None, texts)), shown
    return "\n\n".join(f"{speaker}: {joined}" for speaker, texts in turns for joined in ["\n".join(filter(None, texts))]), shown


def image_part(url: Any, where: str, settings: Settings) -> dict[str, Any]:
    """The content part for an image that a client sent as a URL. Failure if it may not be used."""
    part = {"type": "image_url", "image_url": {"url": url}}
    _with_data(part, where, settings)
    return part


def _parts(messages: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
    return [
        (part, f"messages[{number}].content[{place}]")
        for number, message in enumerate(messages)
        for place, part in enumerate(message["content"] if isinstance(message.get("content"), list) else ())
        if isinstance(part, dict)
    ]


def _with_data(part: dict[str, Any], where: str, settings: Settings) -> list[str]:
    """Put the file's data in the place of an address beneath the image root, and say so. Failure for any other address."""
    kind = part.get("type")
    if not isinstance(kind, str) or not kind.endswith("_url"):
        return []
    holder = part.get(kind)
    url = holder.get("url") if isinstance(holder, dict) else holder
    if not isinstance(url, str):
        raise Failure(400, f"{where}: {kind}.url must be a text", param=where)
    if url[:5].lower() == "data:":
        return []
    root = settings.image_root
    if root is None or kind != "image_url":
        raise Failure(400, f"{where}: addresses are not fetched; send the content as a data: URI", param=where, code="address_refused")
    part["image_url"] = (holder if isinstance(holder, dict) else {}) | {"url": _file_data(url, root, settings.max_request_bytes, where)}
    return [where]


def _file_data(url: str, root: Path, max_bytes: int, where: str) -> str:
    refused = Failure(
        400,
        f"{where}: neither a data: URI nor a file of at most {max_bytes} bytes beneath the image root",
        param=where,
        code="address_refused",
    )
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
            raise refused
        # Symbolic links are followed first, so that the real place counts.
        file = (root / unquote(parts.path if parts.scheme else url)).resolve(strict=True)
        if not file.is_relative_to(root.resolve()) or not file.is_file() or file.stat().st_size > max_bytes:
            raise refused
    except (OSError, ValueError) as error:
        raise refused from error
    try:
        return images.data_uri(file)
    except ValueError as error:
        raise Failure(400, f"{where}: the image does not open", param=where, code="invalid_image") from error


def _reason(body: dict[str, Any], best_of: int) -> str | None:
    """Why the answers to a request cannot be selected among, or None. It goes into a header."""
    if best_of == 1:
        return "best_of"
    if body.get("n") not in (None, 1):
        return "n"
    if field := next((name for name in _UNSELECTABLE if body.get(name) not in _NOTHING), None):
        return field
    messages = body["messages"]
    for message in messages:
        content = message.get("content")
        parts = content if isinstance(content, list) else []
        if message.get("role") not in _SPEAKERS or message.get("tool_calls") or message.get("function_call"):
            return "messages of tools"
        if not isinstance(content, str | list) or not all(isinstance(part, dict) and _is_known(part) for part in parts):
            return "content parts"
    return None if messages[-1]["role"] == "user" else "last message"


def _is_known(part: dict[str, Any]) -> bool:
    kind = part.get("type")
    return kind == "image_url" or (kind in ("text", "refusal") and isinstance(part.get(kind), str))
