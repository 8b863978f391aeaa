"""Ranks but the first print nothing and write no file: what a script of one process does once is done once.

On those ranks a file opened for writing is the null device, and making, moving or deleting one does nothing. What libraries
keep for themselves (compiled code, sockets, temporary files) goes on as it is.
"""

from __future__ import annotations

import builtins
import io
import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

_OWN_FILES = ("numba", "switchml", "tempfile", "multiprocessing", "triton", "importlib", "_pytest")
"""Packages whose files are each rank's own."""
_OWN_FILES_OF_TORCH = (
    "torch._inductor",
    "torch._dynamo",
    "torch.utils.cpp_extension",
    "torch.multiprocessing",
)
_ON_BEHALF = ("os", "shutil", "pathlib", "io", "contextlib")
"""Modules that do so for whoever calls them."""
_CHANGES = ("mkdir", "rmdir", "remove", "unlink", "rename", "replace", "truncate", "symlink", "link")
"""Functions of `os` that change what the first rank changes already."""


def _own() -> bool:
    """Whether the caller of our caller is a library with files of its own."""
    frame = sys._getframe(2)
    while frame.f_back is not None and _module(frame) in _ON_BEHALF:
        frame = frame.f_back
    name = _module(frame)
    return name.partition(".")[0] in _OWN_FILES or name.startswith(_OWN_FILES_OF_TORCH)


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


class FirstRankOnly:
    """Of one rank.

    Args:
        rank: 0 prints and writes.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._written = False

    def install(self, replace: Callable[[Any, str, Any], None]) -> None:
        """Replaces functions by `replace(owner, name, function)`."""
        self.keep_files(replace)
        if self._rank == 0:
            return
        sys.stdout.flush()
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.close(nothing)
        replace(sys, "stderr", open(os.devnull, "w"))  # noqa: SIM115

    def keep_files(self, replace: Callable[[Any, str, Any], None]) -> None:
        """The part of `install` that concerns files."""
        replace(torch, "save", self._save(torch.save))
        replace(torch, "load", self._load(torch.load))
        if self._rank == 0:
            return
        for module in (builtins, io):
            replace(module, "open", _open(io.open))
        for name in _CHANGES:
            replace(os, name, _change(getattr(os, name)))

    def _save(self, save: Callable[..., Any]) -> Callable[..., Any]:
        def first_saves(obj: Any, f: Any, *args: Any, **kwargs: Any) -> Any:
            to_file = isinstance(f, (str, os.PathLike))
            self._written |= to_file
            # A buffer in memory is each rank's own.
            return None if to_file and self._rank else save(obj, f, *args, **kwargs)

        return first_saves

    def _load(self, load: Callable[..., Any]) -> Callable[..., Any]:
        def load_what_is_written(*args: Any, **kwargs: Any) -> Any:
            if self._written and dist.is_initialized():
                dist.barrier()
            return load(*args, **kwargs)

        return load_what_is_written


def _open(opened: Callable[..., Any]) -> Callable[..., Any]:
    def open_unless_writing(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        writes = isinstance(mode, str) and set(mode) & set("wax+")
        if writes and isinstance(file, (str, bytes, os.PathLike)) and not kwargs.get("opener") and not _own():
            return opened(os.devnull, mode.replace("x", "w"), *args, **kwargs)
        return opened(file, mode, *args, **kwargs)

    return open_unless_writing


def _change(change: Callable[..., Any]) -> Callable[..., Any]:
    def change_if_own(*args: Any, **kwargs: Any) -> Any:
        return change(*args, **kwargs) if _own() else None

    return change_if_own
