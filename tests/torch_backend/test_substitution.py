"""Another backend's name means ours where that is asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist

from switchml.errors import UsageError
from switchml.torch_backend.substitution import substitute


@pytest.fixture
def substituted() -> Iterator[None]:
    undo = substitute(["gloo", "nccl"])
    yield
    undo()


def _devices(name: str) -> dict[str, str]:
    return dict(dist.distributed_c10d.BackendConfig(dist.Backend(name)).get_device_backend_map())


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("gloo", {"cpu": "switchml"}),
        ("NCCL", {"cpu": "switchml"}),
        ("cpu:gloo,cuda:nccl", {"cpu": "switchml", "cuda": "switchml"}),
        ("cpu:gloo,cuda:mpi", {"cpu": "switchml", "cuda": "mpi"}),
        ("mpi", {"cpu": "mpi", "cuda": "mpi"}),
    ],
)
@pytest.mark.usefixtures("substituted")
def test_every_form_of_a_name(name: str, devices: dict[str, str]) -> None:
    assert _devices(name) == devices


@pytest.mark.usefixtures("substituted")
@pytest.mark.parametrize("backend", ["nccl", None])
def test_a_group_is_ours_also_where_torch_has_no_nccl_or_chooses_itself(backend: str | None) -> None:
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert type(dist.group.WORLD).__name__ == "SwitchProcessGroup"
        assert type(dist.new_group(backend="gloo")).__name__ == "SwitchProcessGroup"
    finally:
        dist.destroy_process_group()


def test_it_is_said_once_by_rank_0_and_can_be_undone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SWITCHML_QUIET", raising=False)
    before = dist.Backend.__new__
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        undo = substitute(["gloo"])
        assert [dist.Backend("gloo") for _ in range(3)] == ["switchml"] * 3
        undo()
    assert capfd.readouterr().err.count("takes the place of the backend 'gloo'") == 1
    assert dist.Backend("gloo") == "gloo"
    assert dist.Backend.__new__ is before


@pytest.mark.parametrize("name", ["ncll", "switchml", ""])
def test_a_name_that_torch_does_not_know(name: str) -> None:
    with pytest.raises(UsageError, match="torch has the backends gloo, nccl"):
        substitute([name])
    assert dist.Backend("gloo") == "gloo"
