# SPDX-License-Identifier: Apache-2.0
"""Errors in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

import json
import re
from collections.abc import Mapping
from typing import Any


class Failure(Exception):
    """What a client gets instead of an answer: an HTTP status, and the error. retry_after: seconds after which it may ask again.

    error: the keys of an error that a server has sent, which replace those made here.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: str | None = None,
        error: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.error = {"message": message, "type": kind, "param": param, "code": code} | dict(error or {})

    @property
    def body(self) -> bytes:
        return json.dumps({"error": self.error}).encode()

    @property
    def headers(self) -> dict[str, str]:
        # What a server sends there may not fit into a header.
        retry = {"retry-after": self.retry_after} if self.retry_after and re.fullmatch("[!-~ ]{1,40}", self.retry_after) else {}
        return {"content-type": "application/json"} | retry | ({"www-authenticate": "Bearer"} if self.status == 401 else {})


def late() -> Failure:
    return Failure(504, "no answer within the time that this gateway has for a request", code="timeout")
