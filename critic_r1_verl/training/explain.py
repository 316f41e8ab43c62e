# SPDX-License-Identifier: Apache-2.0
"""Find in the log of a failed training why it failed, and say what to do about it."""

import re
import signal

_MEMORY = "use a smaller batch or shorter prompts and responses, and end other programs; `critic-r1 doctor` says what an earlier run left"

PORT_TAKEN = r"[\w.]+(Error|Exception): .*([Aa]ddress already in use|EADDRINUSE).*"

# (pattern of a line, what to do), the surest first. Such a line is the cause wherever it stands in the log, since the errors that follow
# from it come after it.
CAUSES = (
    (r"critic-r1: (\S+ \(process \d+\) died|the run is stuck) .*", ""),
    (
        r"In '.*': Could not find .*|Could not (override|append to config) .*|Error merging override .*",
        "check the recipe's name and the overrides; `python -m verl.trainer.main_ppo +recipe=critic_r1 --cfg job` prints every key",
    ),
    # Of our own doors, which say what to do.
    (r"ValueError: .*(: row \d+: |\bcritic_r1\.(rows|val_orders|paid|group|judge)\b).*", ""),
    (r"ConnectionError: .*; start or repair the server, or correct the URL, then run again", ""),
    (
        r"ValueError: .*(larger than the available KV cache|memory for the cache blocks|less than requested memory for kv).*",
        "give vLLM's cache more room by VLLM_CPU_KVCACHE_SPACE (GiB, on a CPU) or actor_rollout_ref.rollout.gpu_memory_utilization "
        "(on a GPU), or let it need less by a smaller actor_rollout_ref.rollout.max_model_len",
    ),
    (r".*(running low on memory|CUDA out of memory).*|(\w+\.)*(OutOfMemoryError|MemoryError)\b.*", _MEMORY),
    (
        r".*No space left on device.*",
        "free space on that disk; checkpoints go to trainer.default_local_dir, Ray's files to the temporary folder",
    ),
    (
        r".*Weights only load failed.*",
        "the checkpoint holds more than weights; if you trust who made it as you would trust a program, set "
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1",
    ),
    (
        PORT_TAKEN,
        "another program has that port, perhaps an earlier run: `critic-r1 doctor` lists what runs left",
    ),
    (
        r"ValueError: Multimodal prompt produced \d+ tokens, exceeding .*",
        "set data.max_prompt_length to that number at least, or build the data with the limit (--max-prompt-tokens)",
    ),
    (
        r"[\w.]+: .*(is not a local folder|couldn't connect to|Repo id must|requested files in the local cache|offline mode is enabled|"
        r"cached snapshot for .* is incomplete).*",
        "actor_rollout_ref.model.path must be the folder of a model in Hugging Face format or, with access to a hub, a model's id",
    ),
)
# The same for types of exceptions that may be harmless: such a line is the cause only if it is the last exception of the log.
REMEDIES = (
    (
        r"FileNotFoundError: .*\.(parquet|jsonl?)\b.*",
        "build the data with `make prep`, or name existing files by data.train_files and data.val_files",
    ),
    (r"KeyError: .*", "that key is not where it was looked for: if it is a column of the data, rebuild them with `make prep`"),
    (r"ModuleNotFoundError: .*", "install what is missing with `make setup`"),
    (r"(\w+\.)*ValidationError: \d+ validation errors? for .*", "change the setting that the message names"),
    (r".*", "see the traceback above this line in the log"),
)
_PERHAPS_MEMORY = "if memory ran out, `dmesg | grep -i 'killed process'` says so: " + _MEMORY
_DIED = r".*(died unexpectedly|SYSTEM_ERROR).*"

# Lines and characters of a line that are shown: a line of metrics may have kilobytes.
LAST_LINES, LAST_CHARACTERS, MESSAGE_LINES, MESSAGE_CHARACTERS = 8, 200, 12, 500

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_RAY_PREFIX = re.compile(r"^(?:\([\w:.]+ pid=\d+(?:, ip=[^)]*)?\) ?)+")
_EXCEPTION = re.compile(r"^(?:\w+\.)*(?P<type>[A-Z]\w*(?:Error|Exception|Exit))(?:: .*)?$")
# What a line begins that does not belong to the message of an error above it: a traceback, another error, a log line, progress, metrics.
_SOMETHING_ELSE = re.compile(
    r"Traceback |During handling |The above exception|Set the environment variable HYDRA|Error executing job|Exception ignored|step:\d+ "
    r"|critic-r1: |(\w+\.)*[A-Z]\w*(Error|Exception|Exit)(: |$)|\[|<|\d|(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b|[^\n]*(\d+%\||repeated \d+x)"
)
# Exceptions that are the consequence of another one.
_CONSEQUENCES = re.compile(
    r"^(?:\w+\.)*(?:RayTaskError|ActorDiedError|RayActorError|ActorUnavailableError|WorkerCrashedError|EngineDeadError|CancelledError|BrokenPipeError)"
    r"|^BufferError: cannot close exported pointers exist|Engine core initialization failed"
    # Each prompt of the step has failed, and the reason of each stands above.
    r"|^RuntimeError: Sync replay buffer selected terminal groups"
)


def explain(log_text: str, status: int = 1) -> str:
    """The root cause of a failed run: the lines of the log that name it and, where something can be said, a line 'what to do: ...'.

    status: the exit status of the trainer, 128 + n after signal n. Known causes come first, then SIGKILL, then the last exception that is
    not the consequence of another, then the last lines of the log.
    """
    lines = [_split(line) for line in re.split(r"\r\n|\r|\n", log_text)]
    texts = [text.strip() for _, text in lines]
    for pattern, remedy in CAUSES:
        if (last := next((number for number in reversed(range(len(texts))) if re.fullmatch(pattern, texts[number])), None)) is not None:
            return _advice(_message(lines, last), remedy)
    if status == 128 + signal.SIGKILL:
        return _advice(["the trainer was killed by SIGKILL, perhaps because memory ran out"], _PERHAPS_MEMORY)
    if (exception := _last_exception(texts)) is not None:
        remedy = next(remedy for pattern, remedy in REMEDIES if re.fullmatch(pattern, texts[exception]))
        return _advice(_message(lines, exception), remedy)
    if found := next((text for text in texts if re.fullmatch(_DIED, text)), None):
        return _advice([found], _PERHAPS_MEMORY)
    # Ray's driver ends with the bare number of SIGTERM.
    number = signal.SIGTERM if status == signal.SIGTERM else status - 128
    ended = (
        f"the trainer was ended by {signal.Signals(number).name}, which this command did not send"
        if number in signal.valid_signals()
        else "no error that is known"
    )
    return "\n".join([f"{ended}; the last lines:", *(_shortened(text, LAST_CHARACTERS) for text in [t for t in texts if t][-LAST_LINES:])])


def port_was_taken(log_text: str) -> bool:
    """Whether the log names a port in use as an error. A port that was chosen as a free one may be taken before its use."""
    return any(re.fullmatch(PORT_TAKEN, _split(line)[1].strip()) for line in log_text.splitlines())


def _advice(message: list[str], remedy: str) -> str:
    shown = [_shortened(line, MESSAGE_CHARACTERS) for line in message[:MESSAGE_LINES]]
    return "\n".join([*shown, f"what to do: {remedy}"] if remedy else shown)


def _shortened(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[:characters] + " ..."


def _split(line: str) -> tuple[str, str]:
    """The name of the process that Ray puts in front of a line, and the line itself with its indentation."""
    line = _ANSI.sub("", line)
    prefix = _RAY_PREFIX.match(line)
    return (prefix[0], line[prefix.end() :]) if prefix else ("", line)


def _last_exception(texts: list[str]) -> int | None:
    found, ignored = None, False
    for number, text in enumerate(texts):
        if text.startswith("Exception ignored in"):
            ignored = True
        elif _EXCEPTION.match(text):
            if not ignored and not _CONSEQUENCES.search(text):
                found = number
            ignored = False
    return found


def _message(lines: list[tuple[str, str]], start: int) -> list[str]:
    """The line of an error and the lines after it that belong to its message; those of other processes may stand between them.

    The message ends where a line is empty, or where one begins something else. Of settings that pydantic names, an indented line follows.
    """
    prefix, first = lines[start]
    message = [first.strip()]
    if first.startswith("critic-r1: "):
        # Of our own, each is one line, and what follows comes from others.
        return message
    for other, text in lines[start + 1 : start + 1000]:
        if other != prefix:
            continue
        if not text.strip() or _SOMETHING_ELSE.match(text) or len(message) == MESSAGE_LINES:
            break
        if "For further information visit" not in text:
            message.append(text.rstrip())
    return message
