# SPDX-License-Identifier: Apache-2.0
"""Checks the key and the URL of a server, and keeps secrets out of messages and files."""

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

KEY = "OPENAI_API_KEY"
HIDDEN = "***"

# Names of settings that hold a secret, and values that look like one whatever their name: a known beginning, or a long mix of letters and
# digits without spaces.
_SECRET_NAME = re.compile(
    r"(?:key|token|secret|pass|pwd|passwd|password|passphrase|auth|authorization|credentials?|cookie|session|signature|bearer)(?![a-z])",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"^\s*(?:bearer|basic)\s|^(?:sk|pk|rk|hf|gh[opsu]|xox[abp]|AKIA|AIza|eyJ)[-_A-Z0-9]{8}|^(?=.*\d)(?=.*[a-z])[\w=+-]{32,}$|://[^/\s]*@",
    re.IGNORECASE,
)


def api_key(name: str = KEY) -> str:
    """The key in this variable of the environment without outer white space, or "".

    ValueError, which does not show the key, if no header can hold it.
    """
    key = os.environ.get(name, "").strip()
    if wrong := next((position for position, char in enumerate(key, 1) if not "!" <= char <= "~"), None):
        raise ValueError(f"{name}: its character {wrong} of {len(key)} is a space, a control or not ASCII; copy the key again")
    return key


def checked_url(url: str, flag: str = "--base-url") -> SplitResult:
    """The parts of a URL, which `flag` gave. ValueError, without what may be secret in it, if it is no http(s) URL."""
    remedy = f"give the root of the API as {flag}, such as http://localhost:8000/v1"
    if any(char.isspace() or not char.isprintable() for char in url):
        raise ValueError(f"{flag}: the URL holds a space or a control character; {remedy}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        # Of the two possible reasons, neither holds a part of the user or password.
        raise ValueError(f"{flag}: not a URL: the port or the brackets of the address are wrong; {remedy}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(f"{flag} {shown_url(parts)}: not a URL with http:// or https://, a host and, if any, a port; {remedy}")
    return parts


def shown_url(parts: SplitResult) -> str:
    """A URL without its password and its query."""
    place = parts.netloc.rpartition("@")
    shown = parts._replace(netloc=f"{HIDDEN}@{place[2]}" if place[1] else place[2], query=HIDDEN if parts.query else "", fragment="")
    return shown.geturl()


def without(text: str, *secrets: str | None) -> str:
    """The text with each occurrence of these secrets hidden."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def redacted(value: Any, name: str = "") -> Any:
    """JSON content with the texts hidden whose name or value looks like a secret. Numbers stay, such as max_tokens."""
    if isinstance(value, Mapping):
        return {key: redacted(inner, f"{name} {key}") for key, inner in value.items()}
    if isinstance(value, list):
        return [redacted(inner, name) for inner in value]
    return HIDDEN if isinstance(value, str) and (_SECRET_NAME.search(name) or _SECRET_VALUE.search(value)) else value
