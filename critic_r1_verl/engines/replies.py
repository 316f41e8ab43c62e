# SPDX-License-Identifier: Apache-2.0
"""Reads the replies of a server with OpenAI's chat API: completions, refusals, and which field of the request was refused."""

import json
import re
from collections.abc import Collection
from typing import Any

from critic_r1_verl.engines.base import Completion
from critic_r1_verl.lines import End

_REFUSED_STATUSES = (400, 413, 422, 451)
# A status 403 is about the key, unless the body says that the content was the cause.
_MODERATED = re.compile(r"moderat|flagged|content.?(?:filter|policy|management)|safety|blocked", re.IGNORECASE)
_UNSUPPORTED = re.compile(
    r"un-?supported|not support|n't support|unknown|unrecogni[sz]ed|unexpected|extra.?(?:inputs|forbidden|fields)"
    r"|not permitted|not allowed|additional propert|invalid (?:parameter|argument|field)|deprecated|instead"
    r"|cannot both|not implemented|no such (?:parameter|field)",
    re.IGNORECASE,
)


def parsed(text: str, what: str) -> Any:
    """The JSON of a body. ValueError, beginning with `what`, if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what}: the response is not JSON: {text[:300]!r}; is this an OpenAI-compatible API?") from error


def completions(answer: Any, samples: int, what: str) -> list[Completion]:
    """The completions in a reply: `samples` of them, or fewer from a server that ignores "n". ValueError if there are more.

    An empty list of choices, which gateways send for a prompt that their filter stopped, is a refusal. ValueError if there is no list.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if choices == []:
        return refusal(f"no choices: {answer!r}", samples)
    if not isinstance(choices, list) or not 0 < len(choices) <= samples:
        raise ValueError(f"{what}: expected {samples} choice(s), got {answer!r:.300}; is this an OpenAI-compatible chat API?")
    usage = answer["usage"] if isinstance(answer.get("usage"), dict) else {}
    model = answer["model"] if isinstance(answer.get("model"), str) else ""
    # For several choices the server returns only the sum of their tokens, of which each gets an equal share.
    used, number = _count(usage.get("completion_tokens")), len(choices)
    shares = [None if used is None else used // number + (place < used % number) for place in range(number)]
    prompt = _count(usage.get("prompt_tokens"))
    details = usage["prompt_tokens_details"] if isinstance(usage.get("prompt_tokens_details"), dict) else {}
    parts = _count(details.get("image_tokens")), _count(details.get("cached_tokens"))
    texts = [_text_and_end(choice, what) for choice in choices]
    return [Completion(text, prompt, share, end, model, *parts) for (text, end), share in zip(texts, shares, strict=True)]


def refusal(body: str, num: int) -> list[Completion]:
    """`num` completions for a request that the server refused; their text is what it said."""
    return [Completion(_one_line(body), end="refused")] * num


def is_refusal(status: int, body: str) -> bool:
    """Whether a response refuses this request alone, because of its content or its length, and not its sender or all requests."""
    return status in _REFUSED_STATUSES or (status == 403 and bool(_MODERATED.search(body)))


def refused_field(status: int, body: str, sent: Collection[str]) -> str | None:
    """The field, of those that were sent, which a response calls unsupported; None if it refuses something else.

    A field is named by error.param or in the text. Of several in the text, the first is meant, except where two exclude each other: then
    top_p, since the other one is temperature. The name "n" counts only in quotation marks.
    """
    if status not in (400, 422) or not _UNSUPPORTED.search(body):
        return None
    try:
        error = json.loads(body).get("error")
        param = error.get("param") if isinstance(error, dict) else None
    except (ValueError, RecursionError, AttributeError):
        param = None
    if isinstance(param, str) and param in sent:
        return param
    plain = body.replace('\\"', '"')
    if "top_p" in sent and re.search(r"\bboth\b", plain) and "top_p" in plain:
        return "top_p"
    named = {name: match.start() for name in sent if (match := re.search(_mention(name), plain))}
    return min(named, key=lambda name: named[name], default=None)


def _mention(name: str) -> str:
    return rf"""["'`]{name}["'`]""" if len(name) == 1 else rf"(?<!\w){name}(?!\w)"


def _text_and_end(choice: Any, what: str) -> tuple[str, End]:
    """The text of a choice, and how it ended. Reasoning from a field or part of its own stands before the text in think tags."""
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise ValueError(f"{what}: a choice without a message: {choice!r:.300}")
    text, thought = _parts(message.get("content"), what)
    reasoning = thought or _parts(message.get("reasoning_content") or message.get("reasoning"), what)[0]
    reason, refused = choice.get("finish_reason"), message.get("refusal")
    if reason == "content_filter" or (refused and isinstance(refused, str)):
        return _scalar(refused if isinstance(refused, str) and refused else text), "refused"
    if reasoning and "</think>" not in text:
        text = f"<think>{reasoning}</think>{text}" if text else f"<think>{reasoning}"
    if reason == "length":
        return _scalar(text), "cut_short"
    if not text:
        return "", "tool_call" if message.get("tool_calls") or message.get("function_call") else "empty"
    return _scalar(text), "complete"


def _parts(content: Any, what: str) -> tuple[str, str]:
    """The text and the reasoning of a content that is None, a text, or a list of parts. Parts of other kinds have no text."""
    if content is None or isinstance(content, str):
        return content or "", ""
    texts: list[str] = []
    thoughts: list[str] = []
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            texts.append(part)
        elif not isinstance(part, dict):
            raise ValueError(f"{what}: a message without text: {content!r:.300}")
        elif isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            # Mistral's parts of kind "thinking" hold a list of parts, those of Anthropic a text.
            thoughts += _parts(part.get("thinking") or part.get("reasoning"), what)
    return "".join(texts), "".join(thoughts)


def _scalar(text: str) -> str:
    """The text with halves of surrogate pairs joined, or replaced by U+FFFD where the other half is missing."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
