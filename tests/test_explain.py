# SPDX-License-Identifier: Apache-2.0
import json
import signal
import time
from pathlib import Path

import pytest

from critic_r1_verl.training.explain import explain

CASES = json.loads((Path(__file__).parent / "golden" / "launch_causes.json").read_text())
SERVER = "\u001b[36m(vLLMHttpServer pid=4802)\u001b[0m "
VALIDATION_ERROR = "pydantic_core._pydantic_core.ValidationError: "


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_explain(case):
    assert explain("\n".join(case["log"])) == "\n".join(case["explained"])


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("ValueError: Multimodal prompt produced 117 tokens, exceeding rollout.prompt_length=60. Truncating", "set data.max_prompt_length"),
        ("KeyError: 'question'", "rebuild them"),
    ],
)
def test_the_reason_for_which_each_prompt_failed(reason, remedy):
    """verl goes on when a prompt fails, and ends with another message when all of a step have."""
    worker = "(AgentLoopWorkerTQ pid=4801) "
    failed = [worker + "ERROR:Error in _run_prompt for uid=1", worker + "Traceback (most recent call last):", worker + reason, worker]
    log = [*failed * 128, "RuntimeError: Sync replay buffer selected terminal groups with no materializable trajectories. Enable trainer.x"]
    first, advice = explain("\n".join(log)).split("\n")
    assert first.startswith(reason) and remedy in advice


@pytest.mark.parametrize(
    "said",
    [
        "ValueError: /d/train.parquet: no row of the kind 'question', and a share of 1 is asked for (critic_r1.rows.stages); build it",
        "ValueError: the critic m gave no verdict in 9 of 9 cases, more than critic_r1.judge.max_unparsed=0.5; look at its template",
        "ConnectionError: http://h/v1, question 1: no, in 8 attempt(s); start or repair the server, or correct the URL, then run again",
    ],
)
def test_what_our_doors_say_needs_no_more_advice(said: str):
    log = [
        "Error executing job",
        "Traceback (most recent call last):",
        said,
        "ray.exceptions.RayTaskError(ValueError): ray::run()",
        said,
        "",
    ]
    assert explain("\n".join([*log, "RuntimeError: something that follows from it"])) == said


def test_explain_is_short_and_quick_for_a_long_log():
    log = ("(WorkerDict pid=1) " * 5 + "x" * 200 + "\n") * 20_000 + "ValueError: " + "y" * 10_000
    started = time.process_time()
    assert len(explain(log)) < 600
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    ("log", "message"),
    [
        # One error of the whole object, among the lines of another process.
        (
            [
                SERVER + VALIDATION_ERROR + "1 validation error for VllmConfig",
                "(WorkerDict pid=4750)   something else",
                SERVER
                + "  Value error, Total number of attention heads (3) must be divisible by tensor parallel size (2). [type=value_error]",
                SERVER + "    For further information visit https://errors.pydantic.dev/2.14/v/value_error",
                "Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.",
            ],
            [
                VALIDATION_ERROR + "1 validation error for VllmConfig",
                "  Value error, Total number of attention heads (3) must be divisible by tensor parallel size (2). [type=value_error]",
            ],
        ),
        # Errors of two fields, whose names are not indented.
        (
            [
                VALIDATION_ERROR + "2 validation errors for CacheConfig",
                "block_size",
                "  Input should be a valid integer [type=int_parsing, input_value='x', input_type=str]",
                "    For further information visit https://errors.pydantic.dev/2.14/v/int_parsing",
                "gpu_memory_utilization",
                "  Input should be less than or equal to 1 [type=less_than_equal, input_value=3, input_type=int]",
                "    For further information visit https://errors.pydantic.dev/2.14/v/less_than_equal",
                "",
                "    an indented line of something else",
            ],
            [
                VALIDATION_ERROR + "2 validation errors for CacheConfig",
                "block_size",
                "  Input should be a valid integer [type=int_parsing, input_value='x', input_type=str]",
                "gpu_memory_utilization",
                "  Input should be less than or equal to 1 [type=less_than_equal, input_value=3, input_type=int]",
            ],
        ),
    ],
)
def test_a_message_has_all_of_its_lines(log, message):
    assert explain("\n".join(log)) == "\n".join([*message, "what to do: change the setting that the message names"])


def test_a_message_of_plain_lines_ends_where_something_else_begins():
    worker = "(WorkerDict pid=4750) "
    reason = [
        "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:94, remote process exited or there was a network error",
        "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.",
        "Last error:",
        "socketPollConnect: connect returned Connection timed out",
    ]
    for after in (
        "step:3 - actor/loss:0.1",
        "[rank1]: more",
        "WARNING 11-26 a log line",
        "KeyError: 'x' of another",
        "",
        "Training Progress: 10%|#",
    ):
        lines = [*(worker + line for line in reason), "(raylet) something else", worker + after, worker + "unrelated"]
        explained = explain("\n".join(lines)).splitlines()
        assert explained[-1].startswith("what to do: ")
        assert explained[:-1] == (reason if "KeyError" not in after else [after, "unrelated"])


def test_a_kill_is_said_before_exceptions_that_did_not_end_the_run():
    explained = explain("KeyError: 'handled'\nstep:3 - " + "actor/kl_loss:0.001 - " * 300, 128 + signal.SIGKILL)
    assert explained.startswith("the trainer was killed by SIGKILL, perhaps because memory ran out\nwhat to do: if memory ran out, `dmesg")
    assert len(explained.splitlines()) == 2 and "kl_loss" not in explained


def test_a_known_cause_is_said_before_the_kill_that_follows_from_it():
    lost = "critic-r1: ray::WorkerDict (process 17) died 60 s ago and the run hangs, so it is ended now. Likely cause: no memory"
    assert explain(lost + "\nmore", 128 + signal.SIGKILL) == lost


@pytest.mark.parametrize("status", [signal.SIGTERM, 128 + signal.SIGTERM])
def test_a_driver_that_somebody_ended_is_no_unknown_error(status):
    """Ray's handler of SIGTERM exits with the number of the signal."""
    assert explain("step:3 - a:1", status).startswith("the trainer was ended by SIGTERM, which this command did not send; the last lines:")


def test_another_signal_is_named_and_lines_of_metrics_are_cut():
    first, *rest = explain("one\nstep:3 - " + "actor/kl_loss:0.001 - " * 300, 128 + signal.SIGSEGV).splitlines()
    assert first == "the trainer was ended by SIGSEGV, which this command did not send; the last lines:"
    assert rest[0] == "one" and rest[1].startswith("step:3 - actor") and rest[1].endswith(" ...") and len(rest[1]) == 204
