"""Typed errors of every room. All derive from `SwitchMLError`, so one `except` catches what this system raises."""

from __future__ import annotations


class SwitchMLError(RuntimeError):
    """Base class. The message says what happened and what to do next."""


class UsageError(SwitchMLError, ValueError):
    """An argument that cannot be used: dtype, operation, shape, size or address."""


class SwitchUnreachableError(SwitchMLError, ConnectionError):
    """No answer from a switch's control or data port within the deadline."""


class TlsError(SwitchUnreachableError):
    """The two sides do not agree on TLS: one speaks it and the other does not, or a certificate is missing or not trusted."""


class PortInUseError(SwitchMLError, OSError):
    """The address a switch was asked to listen on is taken."""


class JoinError(SwitchMLError):
    """A worker could not join its job."""


class WorldSizeMismatchError(JoinError):
    """Ranks of one job disagree on the world size, or a rank is outside it."""


class LayoutMismatchError(JoinError):
    """Ranks of one job disagree on payload, window or flags."""


class DuplicateRankError(JoinError):
    """The rank has already joined this job."""


class InvalidTokenError(JoinError):
    """The join token is not the switch's."""


class PoolExhaustedError(JoinError):
    """The switch has no slots, job numbers or memory left for this job."""


class JoinTimeoutError(JoinError, TimeoutError):
    """Not all ranks joined within the deadline; the message names the missing ones."""


class LeftBehindError(JoinError):
    """The job has regrouped without this rank, which called too late. It may come in again, as a new rank."""


class CollectiveError(SwitchMLError):
    """A collective failed. The worker is unusable afterwards: leave and join anew."""


class CollectiveMismatchError(CollectiveError):
    """Ranks called different collectives, or the same with different sizes, dtypes or operations."""


class CollectiveTimeoutError(CollectiveError, TimeoutError):
    """A deadline passed. The message names the job, the chunk and the ranks the switch has not heard."""


class JobAbortedError(CollectiveError):
    """The job ended while a collective was in flight: a rank left, died or lost its lease."""


class SwitchGoneError(JobAbortedError):
    """The switch has ended, or was restarted and knows nothing of the job. With `recover` a job goes on at the next."""


class WorkerClosedError(CollectiveError):
    """The worker has left its job."""


class UnsupportedProgramError(SwitchMLError):
    """A P4 program uses something this target has not got; the message names it."""


class MalformedProgramError(UnsupportedProgramError, UsageError):
    """A P4 program that does not hold together; the message names the place."""


class PipelineError(SwitchMLError):
    """A packet made the program do something that has no result, as a division by zero; the packet is lost. BMv2 ends
    there.
    """


class P4AssertionError(PipelineError):
    """An assert or assume of the program does not hold."""


class TestbedError(SwitchMLError):
    """The network asked for cannot be built on this machine."""

    __test__ = False  # the name begins like a test class


class BenchError(SwitchMLError):
    """A measurement could not be made: a system did not start, a rank died or answered too late."""
