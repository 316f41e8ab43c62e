# SPDX-License-Identifier: Apache-2.0
"""What a gateway has done, for Prometheus. Labels have few values, so that memory stays flat whatever clients ask."""

from collections.abc import Mapping

from critic_r1_verl.gateway.judging import Spent

SECONDS = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = registry = CollectorRegistry()
        self.requests = Counter("critic_r1_requests", "Requests, by path and HTTP status.", ("path", "status"), registry=registry)
        self.in_flight = Gauge("critic_r1_in_flight", "Requests that are being answered.", registry=registry)
        self.seconds = Histogram("critic_r1_seconds", "Seconds until the end of the answer.", ("path",), buckets=SECONDS, registry=registry)
        self.passed = Counter("critic_r1_passed_through", "Chat requests that the upstream alone answered.", registry=registry)
        self.stopped = Counter("critic_r1_stopped", "Selections that the votes ended: time or tokens.", ("reason",), registry=registry)
        self.candidates = Counter("critic_r1_candidates", "Candidates that came.", registry=registry)
        self.calls = Counter("critic_r1_upstream_replies", "Replies of upstreams: answering or judging.", ("part",), registry=registry)
        self.tokens = Counter(
            "critic_r1_tokens", "Tokens: answering or judging, prompt or completion.", ("part", "kind"), registry=registry
        )
        self.failures = Counter("critic_r1_upstream_failures", "Failed requests to upstreams.", ("part", "reason"), registry=registry)

    def spend(self, spent: Mapping[str, Spent]) -> None:
        for part, counts in spent.items():
            self.calls.labels(part).inc(counts.calls)
            self.tokens.labels(part, "prompt").inc(counts.prompt_tokens or 0)
            self.tokens.labels(part, "completion").inc(counts.completion_tokens or 0)

    def page(self) -> bytes:
        from prometheus_client import generate_latest

        return generate_latest(self._registry)
