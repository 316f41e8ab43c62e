# SPDX-License-Identifier: Apache-2.0
"""The settings of a gateway; their defaults are those of the flags (cli/serving.py)."""

from dataclasses import dataclass
from pathlib import Path

from critic_r1_verl.critics.answers import AnswerCritic
from critic_r1_verl.select.methods import METHODS

_WITH_THE_TRUTH = ("oracle", "duel")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """ValueError for values out of range.

    upstream, judge_upstream: roots of OpenAI's API, such as http://localhost:8000/v1; judge_upstream "" is the upstream itself. key,
    upstream_key, judge_key: of the gateway and of those two, "" for none. model: for requests that name none; judge_model: "" for the model
    of the request. critic, pair_critic: how the judge is asked for a selection, and for /v1/judge. samples, max_samples: candidates by
    default, and at most. weight: of verdicts against votes, None to learn it (judging.Trust). temperature: of candidates whose request has
    none, or 0. image_root: the folder beneath which images are read. timeout: seconds for a request. max_tokens_per_request: spent on it, 0
    for no limit. max_request_bytes: of its body. max_in_flight, max_concurrency: requests of clients, and requests to upstreams, at a time.
    max_retries: of a request to an upstream. keep_alive: seconds between the comments in a stream whose answer is not there yet.
    """

    upstream: str
    judge_upstream: str
    key: str
    upstream_key: str
    judge_key: str
    model: str
    judge_model: str
    critic: AnswerCritic
    pair_critic: AnswerCritic
    method: str
    samples: int
    max_samples: int
    weight: float | None
    temperature: float
    image_root: Path | None
    timeout: float
    max_tokens_per_request: int
    max_request_bytes: int
    max_in_flight: int
    max_concurrency: int
    max_retries: int
    keep_alive: float = 10.0

    def __post_init__(self) -> None:
        if self.method not in METHODS or self.method in _WITH_THE_TRUTH:
            names = ", ".join(name for name in METHODS if name not in _WITH_THE_TRUTH)
            raise ValueError(f"--method {self.method}: give one of {names}")
        if self.weight is not None and not 0 <= self.weight < float("inf"):
            raise ValueError(f"--weight {self.weight}: give 0, which trusts the votes alone, or more")
        if self.samples > self.max_samples:
            raise ValueError(f"--samples {self.samples}: more than --max-samples, {self.max_samples}")
        if not 0 < self.temperature <= 2:
            raise ValueError(f"--temperature {self.temperature}: give more than 0, since greedy samples are all the same, and at most 2")
        if not 0 < self.timeout < float("inf") or self.max_retries < 0 or self.max_tokens_per_request < 0:
            raise ValueError("--timeout must be above 0, and --max-retries and --max-tokens-per-request at least 0")
        if self.image_root and not self.image_root.is_dir():
            raise ValueError(f"--image-root {self.image_root}: no such folder")
