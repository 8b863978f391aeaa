"""One rank of `failure_table.py`: goes wrong in a chosen way, or says on standard output what it sees of that.

    failing_rank.py BACKEND CASE

Times are CLOCK_MONOTONIC's, which all processes of a host share.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from typing import Any

VICTIM = 1
PAUSE = 20
"""Seconds for which a rank is stopped, or holds the GIL."""
WAITING = 1.0
"""Seconds after which the others are taken to be waiting for the victim."""
WHOLE = 12.0
"""Seconds of collectives in which the network is cut."""


def say(**what: Any) -> None:
    """Tell the parent."""
    print(json.dumps({"at": time.monotonic()} | what), flush=True)


def go_wrong(case: str) -> None:
    """Returns where the job is meant to go on."""
    import torch.distributed as dist

    time.sleep(WAITING)
    say(event=case)
    if case == "exception":
        raise ValueError("no such file")
    if case == "sys.exit":
        sys.exit(3)
    if case == "destroy_process_group":
        dist.destroy_process_group()
        sys.exit(0)
    if case == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    if case == "SIGSTOP":
        subprocess.Popen(["sh", "-c", f"sleep {PAUSE}; kill -CONT {os.getpid()}"])
        os.kill(os.getpid(), signal.SIGSTOP)
    if case == "GIL held":
        ctypes.PyDLL(None).sleep(PAUSE)


def main(backend: str, case: str) -> None:
    """Be one rank."""
    import torch
    import torch.distributed as dist

    dist.init_process_group(backend, timeout=timedelta(seconds=180))
    rank = dist.get_rank()
    dist.barrier()
    say(ready=rank)
    lasting = case in ("network cut", "switch killed")
    if rank == VICTIM and not lasting:
        go_wrong(case)
    begin = time.monotonic()
    try:
        while True:
            done = torch.tensor([float(rank == 0 and time.monotonic() - begin > WHOLE)])
            dist.all_reduce(done)
            if not lasting or done.item():
                break
            time.sleep(0.01)
    except Exception as error:
        say(error=f"{type(error).__name__}: {str(error).splitlines()[0]}")
        os._exit(0)  # what else goes wrong at the end is not the question
    say(went_on=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
