"""Keeps torch.compile out of collectives and of their handles.

dynamo traces whatever Python runs on the thread of a compiled function, also below calls that it could not compile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from torch._C._dynamo.eval_frame import get_eval_frame_callback
from torch._compile import _disable_dynamo

Function = TypeVar("Function", bound=Callable[..., Any])


def untraced(function: Function) -> Function:
    """As `torch._disable_dynamo`, which imports torch._dynamo (over a second) at its first call.

    While nobody traces on this thread, the function is called as it is.
    """
    disabled = _disable_dynamo(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (disabled if get_eval_frame_callback() else function)(*args, **kwargs)

    call._torchdynamo_disable = True  # type: ignore[attr-defined]
    return cast(Function, call)
