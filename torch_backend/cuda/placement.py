"""Whether a collective is one of tensors on a GPU. Light: asked on every call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


def tensors_in(*arguments: Any) -> Iterator[torch.Tensor]:
    """All tensors in arguments of a collective, which may be lists of lists."""
    for argument in arguments:
        if isinstance(argument, torch.Tensor):
            yield argument
        elif isinstance(argument, list | tuple):
            yield from tensors_in(*argument)


def on_device(arguments: tuple[Any, ...]) -> bool:
    """Is there a tensor on a GPU in these arguments? Before CUDA's first use in the process there is none."""
    return torch.cuda.is_initialized() and any(tensor.is_cuda for tensor in tensors_in(*arguments))
