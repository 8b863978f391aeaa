"""The worker library: `Worker.join(...)`, then its collectives (`switchml.worker.collectives`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from switchml.worker.transfer import Rounding as Rounding
    from switchml.worker.work import Work as Work
    from switchml.worker.worker import Worker as Worker

__all__ = ["Rounding", "Work", "Worker"]


def __getattr__(name: str) -> object:
    # On demand, because numba and grpc take a third of a second to load.
    if name == "Worker":
        from switchml.worker.worker import Worker

        return Worker
    if name == "Work":
        from switchml.worker.work import Work

        return Work
    if name == "Rounding":
        from switchml.worker.transfer import Rounding

        return Rounding
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
