"""Hands programs that import torch or load compiled loops over to the process that has done so (preloaded.py), stands for them.

Python imports this at its start, where PYTHONPATH names this folder. Whoever started the program sees a process that takes its
signals and ends as it does.
"""

import os
import sys

_RUN_BY_MODULE = ("torch.distributed.run", "switchml.cli", "switchml.switch_emulator")
# What is looked at while modules are imported.
_DECISIVE = ("NUMBA_DISABLE_JIT", "TORCH_DEVICE_BACKEND_AUTOLOAD")


def _gains(words: list[str]) -> bool:
    if words[:1] == ["-m"]:
        return words[1] in _RUN_BY_MODULE
    if words[:1] == ["-c"]:
        return _names_them(words[1])
    if not words or words[0].startswith("-") or not words[0].endswith(".py"):
        return False
    with open(words[0], encoding="utf-8") as file:
        return _names_them(file.read())


def _names_them(program: str) -> bool:
    return "torch" in program or "switchml" in program


def _hand_over(path: str) -> None:
    words, options = sys.orig_argv[1:], set()
    while words and words[0] in ("-P", "-u"):
        options.add(words.pop(0))
    if any(name in os.environ for name in _DECISIVE) or not _gains(words):
        return
    if {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2, 3}:  # 3: the listing's
        return  # what else is open is for the program
    import json
    import signal
    import socket

    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    forwarded = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
    ignored = [number for number in forwarded if signal.getsignal(number) is signal.SIG_IGN]
    request = {
        "words": words,
        "safe_path": "-P" in options or bool(os.environ.get("PYTHONSAFEPATH")),
        "unbuffered": "-u" in options or bool(os.environ.get("PYTHONUNBUFFERED")),
        "environment": dict(os.environ),
        "ignored": ignored,
        "pid": os.getpid(),
        "spaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in ("mnt", "net", "uts")},
    }
    link.connect(path)
    folder = os.open(".", os.O_RDONLY)
    socket.send_fds(link, [json.dumps(request).encode()], [0, 1, 2, folder])
    for number in forwarded:
        if number not in ignored:
            signal.signal(number, lambda number, _: link.send(bytes([number])))
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    status = int(link.recv(100) or 1)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


if "SWITCHML_TEST_TEMPLATE" in os.environ:
    _hand_over(os.environ["SWITCHML_TEST_TEMPLATE"])
