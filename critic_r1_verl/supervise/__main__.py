# SPDX-License-Identifier: Apache-2.0
"""The supervisor process, `python -m critic_r1_verl.supervise RUN_ID`: watches a run until it ends, then cleans up."""

import re
import signal
import sys
import time
from pathlib import Path

import psutil

from critic_r1_verl.supervise.run import Run, find, is_alive, key, read_state, say, send

POLL_SECONDS = 0.2
SCAN_SECONDS = 0.5


def main(run_id: str) -> None:
    """Watch the run and end what is left of it when its driver has ended, its tied process has ended, or it hangs."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    state = read_state(run_id)
    if state is None:
        raise SystemExit(f"critic-r1: the state file of run {run_id} is missing, so the run is not watched")
    state["supervisor"] = key(psutil.Process())
    run, tie_to, hang_seconds = Run(run_id, state), find(state["tie_to"]), state["hang_seconds"]
    out_of_memory_kills = _out_of_memory_kills()
    next_scan_seconds = 0.0
    while is_alive(run.driver):
        if state["tie_to"] and not is_alive(tie_to):
            say(f"process {state['tie_to'][0]}, which started this run, has ended, so the run is ended now")
            send(run.driver, signal.SIGTERM)
            break
        if time.monotonic() >= next_scan_seconds:
            run.scan()
            # The first time it is saved even without members, so that the file names the supervisor.
            run.save()
            if hang_seconds is not None and (lost := run.lost(hang_seconds)):
                if _out_of_memory_kills() > out_of_memory_kills:
                    cause = "the kernel killed it for want of memory: use a smaller batch or shorter responses, or end other programs"
                else:
                    cause = "memory may have run out (see `dmesg | grep -i 'killed process'`); otherwise its error is earlier in this log"
                say(f"{lost} died {hang_seconds:g} s ago and the run hangs, so it is ended now. Likely cause: {cause}")
                send(run.driver, signal.SIGKILL)
                break
            next_scan_seconds = time.monotonic() + SCAN_SECONDS
        time.sleep(POLL_SECONDS)
    run.end(state["grace_seconds"])


def _out_of_memory_kills() -> int:
    """How many processes the kernel has killed because memory ran out. psutil does not provide this number."""
    match = re.search(r"^oom_kill (\d+)", Path("/proc/vmstat").read_text(), re.MULTILINE)
    return int(match[1]) if match else 0


if __name__ == "__main__":
    main(sys.argv[1])
