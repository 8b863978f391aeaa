"""What ranks tell each other over their store of calls that do not end. Ranks that disagree: test_mapping.py."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from switchml.errors import CollectiveTimeoutError
from switchml.torch_backend import agreement
from switchml.torch_backend.agreement import Agreement, said
from switchml.torch_backend.routing import Path


class Call:
    """A handle of ours or of gloo's."""

    over = False

    def is_over(self) -> bool:
        return self.over

    is_completed = is_over


def test_a_timeout_says_that_the_rank_which_is_missing_receives(monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[Agreement] = []
    monkeypatch.setattr(agreement, "_WATCH", SimpleNamespace(add=watched.append, discard=watched.remove))
    store = dist.HashStore()
    failures: list[Any] = []
    one, other = (Agreement(store, rank, 2, failures.append) for rank in range(2))
    sum_, again, receiving = Call(), Call(), Call()
    allreduce = said("allreduce", Path.SWITCH, [torch.ones(3)], "sum")
    late = CollectiveTimeoutError("job 'x': the timeout passed.")

    one.note(allreduce, sum_)  # type: ignore[arg-type]
    other.note_transfer("recv from rank 0", receiving)  # type: ignore[arg-type]
    assert watched == [one, other]
    now = time.monotonic()
    other.look(now)
    one.look(now + 2)
    assert one.explain(late) is late  # it has not been long

    other.look(now + 4)
    one.look(now + 6)
    told = one.explain(late)
    assert isinstance(told, CollectiveTimeoutError)
    assert str(told) == f"{late} Rank 1 has not called it: its recv from rank 0 has not ended."
    error = ValueError()
    assert one.explain(error) is error

    # It comes, with the receiving still under way.
    other.note(allreduce, again)  # type: ignore[arg-type]
    other.look(now + 8)
    one.look(now + 12)
    assert one.explain(late) is late

    # Once more, and this time it ends before.
    sum_.over = again.over = True
    one.note(allreduce, following := Call())  # type: ignore[arg-type]
    one.look(now + 20)
    assert "recv from rank 0" in str(one.explain(late))
    receiving.over = True
    other.look(now + 24)
    one.look(now + 28)
    assert one.explain(late) is late
    assert not following.over
    assert failures == []


def test_transfers_are_noted_until_they_end(ranks: Any) -> None:
    def body(group: Any, rank: int) -> list[tuple[str, bool, bool]]:
        noted = group._membership.agreement._transfers
        tensor = torch.full((1,), rank + 1.0)
        group.barrier().wait()
        work = group.send([tensor], 1, 7) if rank == 0 else group.recv([tensor], 0, 7)
        (transfer,) = noted
        before = rank == 1 and transfer.is_over()
        work.wait()
        assert tensor.item() == 1.0
        return [(transfer.what, before, transfer.is_over())]

    assert ranks.run(2, body) == [[("send to rank 1", False, True)], [("recv from rank 0", False, True)]]
