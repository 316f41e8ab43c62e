# SPDX-License-Identifier: Apache-2.0
"""critic-r1 serve: the gateway."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from critic_r1_verl.cli import flags

if TYPE_CHECKING:
    from critic_r1_verl.gateway.settings import Settings

KEY, JUDGE_KEY = "CRITIC_R1_API_KEY", "CRITIC_R1_JUDGE_API_KEY"


def add_commands(commands: Any) -> None:
    serve = flags.command(
        commands,
        "serve",
        _serve,
        "serve OpenAI's chat API, and answer with the best of N answers of another such server (docs/serving.md)",
        "critic-r1 serve --upstream http://localhost:8000/v1 --samples 8",
    )

    def number(flag: str, default: int, help: str) -> None:
        serve.add_argument(flag, type=flags.count, default=default, metavar="N", help=f"{help} (default: %(default)s)")

    add = serve.add_argument
    add("--upstream", required=True, metavar="URL", help="root of the API that answers; its key is read from OPENAI_API_KEY")
    add("--model", default="", metavar="M", help="model on the upstream for requests that name none")
    add("--judge-upstream", default="", metavar="URL", help=f"root of the API that judges (default: --upstream), with the key {JUDGE_KEY}")
    add("--judge-model", default="", metavar="M", help="model that judges (default: that of the request)")
    number("--samples", 8, "candidates for a request that has no best_of")
    number("--max-samples", 32, "limit for best_of")
    add("--method", default="vote_then_judge", metavar="NAME", help="how one is selected (default: %(default)s)")
    add("--weight", type=float, metavar="W", help="of verdicts against votes (default: as the judge's agreement with itself allows)")
    add("--temperature", type=float, default=1.0, metavar="T", help="of candidates, if a request has none or 0 (default: %(default)s)")
    add("--template", default="", metavar="T", help="prompt for pairs: a name in critic_r1_verl/prompts, or a text file")
    number("--judge-max-tokens", 2048, "limit for one verdict")
    add("--without-image", action="store_true", help="show the judge the question and the answers alone")
    add("--think-tags", nargs=2, default=flags.THINK_TAGS, metavar=("OPEN", "CLOSE"), help="tags around the model's reasoning")
    add("--thought-opened", action="store_true", help="the model's texts begin inside the think block, without the opening tag")
    add("--image-root", type=Path, metavar="DIR", help="read images that requests name by file:// or by a path beneath this folder")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help=f"with others than this machine, set {KEY} (default: %(default)s)")
    add("--port", type=int, default=8080, metavar="N", help="0 for any that is free (default: %(default)s)")
    add("--timeout", type=float, default=300.0, metavar="SECONDS", help="limit for a request (default: %(default)s)")
    add("--grace", type=float, metavar="SECONDS", help="limit for what is in flight at SIGTERM (default: --timeout)")
    add("--max-tokens-per-request", type=int, default=0, metavar="N", help="where this ends it, the votes decide (default: no limit)")
    number("--max-request-mib", 64, "size of a request")
    number("--max-in-flight", 256, "requests at a time; others get status 503")
    number("--max-concurrency", 256, "requests to upstreams at a time")
    add("--max-retries", type=int, default=2, metavar="N", help="retries of a request to an upstream (default: %(default)s)")


def settings(arguments: argparse.Namespace) -> "Settings":
    """The settings of these flags and of the keys in the environment. ValueError for those that cannot be used."""
    from dataclasses import fields

    from critic_r1_verl import prompts
    from critic_r1_verl.critics.answers import AnswerCritic
    from critic_r1_verl.critics.pairwise import PairwiseCritic
    from critic_r1_verl.engines import secrets
    from critic_r1_verl.engines.base import Sampling
    from critic_r1_verl.gateway.settings import Settings

    opening, closing = arguments.think_tags

    def critic(template: str) -> AnswerCritic:
        sampling, tags = Sampling(arguments.judge_max_tokens), (opening, closing)
        pairwise = PairwiseCritic(prompts.load(arguments.template or template), sampling, 1, tags, arguments.thought_opened)
        found = AnswerCritic(pairwise, not arguments.without_image)
        # A template that lacks a placeholder should not be found out by the first request.
        found.prompt("pair", "", 0, ("", ""))
        return found

    given = {field.name: getattr(arguments, field.name) for field in fields(Settings) if hasattr(arguments, field.name)}
    key = secrets.api_key()
    return Settings(
        **given,
        critic=critic("critic_no_tie"),
        pair_critic=critic("critic"),
        max_request_bytes=arguments.max_request_mib * 2**20,
        key=secrets.api_key(KEY),
        upstream_key=key,
        # The upstream's key goes to no other server.
        judge_key=secrets.api_key(JUDGE_KEY) or ("" if arguments.judge_upstream else key),
    )


def _serve(arguments: argparse.Namespace) -> int:
    from critic_r1_verl.gateway import app, server

    grace = arguments.timeout if arguments.grace is None else arguments.grace
    server.run(app.make(settings(arguments)), arguments.host, arguments.port, grace)
    return 0
