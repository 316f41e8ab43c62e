# SPDX-License-Identifier: Apache-2.0
"""The HTTP client below the `openai` client: it bounds each attempt of a request, and brings odd responses into the usual form.

time        an attempt ends after timeout_seconds, from the connection to the last byte, however slowly the bytes arrive
size        a body of more than MAX_BODY_BYTES, decompressed, is refused
redirects   are followed with method and body, but only on the same server, or from http to https on the same host
errors      sent with status 200, as some gateways do, get the status that their body states
cut short   an empty or incomplete JSON body with status 200 counts as a failed connection, and is requested again
events      a body of server-sent events becomes the one JSON object that a server without streaming would have sent
letters     a body is read as UTF-8, else in the encoding that its header states; what fits neither becomes U+FFFD
"""

import asyncio
import json
import ssl
from functools import cache
from typing import Any

MAX_BODY_BYTES = 32 * 2**20
MAX_REDIRECTS = 5
RETRIED_STATUSES = (408, 425, 429, 500, *range(502, 505), *range(520, 525), 529)
"""HTTP status codes of a server or gateway that is temporarily unable to respond; those from 520 on are gateways' own."""

_BAD_GATEWAY = 502
# A body that is compressed in another way, or twice, could grow a million times within one chunk.
_ENCODINGS = ("", "identity", "gzip", "deflate")
_KEPT_HEADERS = ("retry-after", "retry-after-ms")


def client(max_connections: int, timeout_seconds: float) -> Any:
    """An httpx2.AsyncClient for openai.AsyncOpenAI. ValueError if the proxy settings of the environment are malformed."""
    import httpx2
    import openai

    class Client(openai.DefaultAsyncHttpxClient):
        async def send(self, request: Any, *, stream: bool = False, follow_redirects: Any = None, **options: Any) -> Any:
            try:
                async with asyncio.timeout(timeout_seconds):
                    for _ in range(MAX_REDIRECTS + 1):
                        response = await super().send(request, stream=True, follow_redirects=False, **options)
                        try:
                            content = await _content(response)
                        finally:
                            await response.aclose()
                        if not response.has_redirect_location:
                            return _usual(response, content, request)
                        request = _redirected(request, response)
            except TimeoutError as error:
                raise httpx2.ReadTimeout(f"no complete response within {timeout_seconds:g} s", request=request) from error
            raise ValueError(f"more than {MAX_REDIRECTS} redirects; correct --base-url")

    options: dict[str, Any] = {"headers": {"Accept-Encoding": "gzip, deflate"}, "timeout": timeout_seconds}
    try:
        return Client(verify=certificates(), limits=httpx2.Limits(max_connections=max_connections), **options)
    except (ValueError, httpx2.InvalidURL) as error:
        # The message is left out, because it may hold the password of a proxy.
        raise ValueError("the proxy settings of the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) are malformed") from error


@cache
def certificates() -> ssl.SSLContext:
    """The certificates of the authorities, which take 40 ms to load, for all clients of this process."""
    import httpx2

    return httpx2.create_ssl_context()


async def _content(response: Any) -> bytes:
    content = bytearray()
    if (encoding := response.headers.get("content-encoding", "").strip().lower()) not in _ENCODINGS:
        raise ValueError(f"the response is compressed by {encoding!r:.80}, which was not asked for")
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > MAX_BODY_BYTES:
            raise ValueError(f"the response is larger than {MAX_BODY_BYTES // 2**20} MiB; is this an OpenAI-compatible API?")
    return bytes(content)


def _redirected(request: Any, response: Any) -> Any:
    import httpx2

    try:
        target = request.url.join(response.headers["location"])
    except httpx2.InvalidURL as error:
        raise ValueError("the server redirects to a malformed URL; correct --base-url") from error
    before, after = ((url.scheme, url.host, url.port) for url in (request.url, target))
    if before != after and (before[0], after[0], before[1]) != ("http", "https", after[1]):
        where = f"{target.scheme}://{target.host}{f':{target.port}' if target.port else ''}"
        raise ValueError(f"the server redirects to another one, {where}, which would get the key; give the right server as --base-url")
    headers = [(name, value) for name, value in request.headers.multi_items() if name.lower() != "host"]
    return httpx2.Request(request.method, target, headers=headers, content=request.content, extensions=request.extensions)


def _usual(response: Any, content: bytes, request: Any) -> Any:
    """The response with its body as UTF-8, and with the status that it should have had."""
    import httpx2

    text = _decoded(content, response.charset_encoding)
    if response.headers.get("content-type", "").startswith("text/event-stream") or text.startswith("data:"):
        merged = _merged(text)
        if merged is None:
            raise httpx2.RemoteProtocolError("the stream of events ended early", request=request)
        text = json.dumps(merged)
    if response.status_code == 200 and text.lstrip()[:1] in ("", "{") and not _is_json(text):
        raise httpx2.RemoteProtocolError("the JSON of the response is cut short", request=request)
    headers = httpx2.Headers({name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers})
    status = _status(response.status_code, text)
    # The client obeys this header; without it, it would also retry 409 and all statuses from 500 on.
    headers["x-should-retry"] = str(status in RETRIED_STATUSES).lower()
    return httpx2.Response(status, headers=headers, content=text.encode(), request=request)


def _decoded(content: bytes, charset: str | None) -> str:
    for encoding in ("utf-8-sig", charset or "utf-8"):
        try:
            return content.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    return content.decode("utf-8", "replace")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except RecursionError:
        return True
    except ValueError:
        return False
    return True


def _status(status: int, text: str) -> int:
    """The status of a response. If it is 200 but the body, or a choice in it, is an error with a status of its own: this one."""
    if status != 200 or '"error"' not in text:
        return status
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return status
    if not isinstance(body, dict):
        return status
    choices = body.get("choices")
    choices = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    for part in (body, *choices):
        error = part.get("error")
        code = str(error.get("code")) if isinstance(error, dict) else ""
        if code.isdecimal() and 400 <= int(code) < 600:
            return int(code)
        if part is not body and (error or part.get("finish_reason") == "error"):
            return _BAD_GATEWAY
    return status


def _merged(text: str) -> dict[str, Any] | None:
    """The JSON object that the chunks of a stream amount to; None if the stream was cut short."""
    merged: dict[str, Any] = {}
    choices: dict[Any, dict[str, Any]] = {}
    ended = False
    for line in text.splitlines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            ended = True
            break
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError):
            return None
        if not isinstance(chunk, dict):
            return None
        merged |= {key: value for key, value in chunk.items() if key != "choices" and value is not None}
        for part in chunk["choices"] if isinstance(chunk.get("choices"), list) else []:
            if isinstance(part, dict):
                index = part.get("index")
                choice = choices.setdefault(index if isinstance(index, int) else 0, {"message": {}})
                ended |= _add(choice, part)
    if not ended and "error" not in merged:
        return None
    return merged | {"choices": [choices[index] for index in sorted(choices)]} if choices else merged


def _add(choice: dict[str, Any], part: dict[str, Any]) -> bool:
    """Add the part of a choice that a chunk holds. Returns whether it is the last part."""
    message = choice["message"]
    for name in ("delta", "message"):
        for key, value in part[name].items() if isinstance(part.get(name), dict) else ():
            before = message.get(key)
            same = type(before) is type(value) and isinstance(value, str | list) and key != "role"
            if value is not None:
                message[key] = before + value if same else value
    if part.get("error"):
        choice["error"] = part["error"]
    if part.get("finish_reason"):
        choice["finish_reason"] = part["finish_reason"]
    return bool(part.get("finish_reason"))
