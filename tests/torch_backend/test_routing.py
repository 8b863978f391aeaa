"""The table, and that the process group obeys it."""

from __future__ import annotations

import re
from pathlib import Path as FilePath

import pytest
import torch
import torch.distributed as dist

from switchml.torch_backend.process_group import SwitchProcessGroup
from switchml.torch_backend.routing import (
    ROUTE_OF,
    ROUTES,
    Path,
    gloo_methods,
    routing_table,
    switch_methods,
)

NOT_COLLECTIVES = {
    "abort",
    "getBackendName",
    "getGroupDesc",
    "getGroupName",
    "mergeRemoteGroup",
    "setGroupDesc",
    "setGroupName",
    "splitGroup",
}
# The base class answers these from its constructor's arguments, without any call that could block.
LEFT_TO_THE_BASE = {"getRank", "getSize"}


def trampolined_methods() -> set[str]:
    """What torch's C++ looks up on a Python process group, by its own header."""
    header = FilePath(torch.__file__).parent / "include/torch/csrc/distributed/c10d/PyProcessGroup.hpp"
    text = header.read_text()
    body = text[text.index("using ProcessGroup::ProcessGroup") :]
    by_macro = re.findall(r"ProcessGroup, /\* Parent class \*/\s*(\w+)", body)
    by_hand = re.findall(r'get_override\(\s*static_cast<const ProcessGroup\*>\(this\),\s*"(\w+)"', body)
    return set(by_macro) | set(by_hand)


def test_every_method_that_cpp_can_call_is_our_own() -> None:
    demanded = trampolined_methods()
    assert {"allreduce", "all_to_all_single", "getGroupName", "send"} <= demanded
    assert demanded - LEFT_TO_THE_BASE <= set(vars(SwitchProcessGroup))
    assert demanded - LEFT_TO_THE_BASE - NOT_COLLECTIVES <= set(ROUTE_OF)


def test_every_method_of_the_table_is_there() -> None:
    for method in ROUTE_OF:
        if hasattr(dist.ProcessGroup, method):
            assert method in vars(SwitchProcessGroup), method


def test_no_method_is_in_two_rows() -> None:
    methods = [method for route in ROUTES for method in route.methods]
    assert len(methods) == len(set(methods)) == len(gloo_methods()) + len(switch_methods())


def test_sparse_tensors_take_gloo() -> None:
    sparse = torch.sparse_coo_tensor(torch.tensor([[0]]), torch.tensor([1.0]), (4,), check_invariants=True)
    assert ROUTE_OF["allreduce"].choose([sparse]) is Path.GLOO
    assert ROUTE_OF["allreduce"].choose([torch.ones(4)]) is Path.SWITCH
    assert ROUTE_OF["allreduce"].choose([torch.ones(4), sparse]) is Path.GLOO


@pytest.mark.parametrize(
    ("size", "path"), [(0, Path.SWITCH), (65536, Path.SWITCH), (65537, Path.GLOO), (1 << 20, Path.GLOO)]
)
def test_the_size_decides_for_allgather(size: int, path: Path) -> None:
    assert ROUTE_OF["allgather"].choose([torch.empty(size, dtype=torch.uint8)]) is path


def test_the_table_can_be_read() -> None:
    lines = routing_table().splitlines()
    assert len(lines) == len(ROUTES) + 1
    assert any("allreduce" in line and "switch" in line for line in lines)
    assert any("alltoall" in line and "gloo" in line for line in lines)
