"""The table, and that the process group obeys it."""

from __future__ import annotations

import re
from pathlib import Path as FilePath

import pytest
import torch
import torch.distributed as dist

from switchml.torch_backend.process_group import SwitchProcessGroup
from switchml.torch_backend.routing import (
    GATHERED_LIMIT,
    ROUTES,
    ROUTES_OF,
    Path,
    Tensors,
    choose,
    gloo_methods,
    main,
    routing_markdown,
    routing_rows,
    routing_table,
    taken_by_gloo,
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
    folder = FilePath(torch.__file__).parent / "include/torch/csrc/distributed/c10d"
    (header,) = folder.rglob("PyProcessGroup.hpp")  # below py/ from torch 2.14 on
    text = header.read_text()
    body = text[text.index("using ProcessGroup::ProcessGroup") :]
    by_macro = re.findall(r"ProcessGroup, /\* Parent class \*/\s*(\w+)", body)
    by_hand = re.findall(r'get_override\(\s*static_cast<const ProcessGroup\*>\(this\),\s*"(\w+)"', body)
    return set(by_macro) | set(by_hand)


def test_every_method_that_cpp_can_call_is_our_own() -> None:
    demanded = trampolined_methods()
    assert {"allreduce", "all_to_all_single", "getGroupName", "send"} <= demanded
    assert demanded - LEFT_TO_THE_BASE <= set(vars(SwitchProcessGroup))
    assert demanded - LEFT_TO_THE_BASE - NOT_COLLECTIVES <= set(ROUTES_OF)


def test_every_method_of_the_table_is_there() -> None:
    for method in ROUTES_OF:
        if hasattr(dist.ProcessGroup, method):
            assert method in vars(SwitchProcessGroup), method


def test_every_call_has_a_row() -> None:
    """The last row of a method is about whatever is left, and a method does not depend on its alias."""
    for method, routes in ROUTES_OF.items():
        assert routes[-1].tensors in (Tensors.ANY, Tensors.OTHER), method
        assert len({route.path for route in routes if route.path is not Path.ROWS}) == 1, method
    switched = {method for method, routes in ROUTES_OF.items() if routes[0].path is not Path.GLOO}
    assert set(gloo_methods()) | switched == set(ROUTES_OF)
    assert ROUTES_OF["reduce_scatter_single"] == ROUTES_OF["_reduce_scatter_base"]


def test_sums_of_sparse_tensors_go_by_rows_and_the_rest_of_them_takes_gloo() -> None:
    sparse = torch.sparse_coo_tensor(torch.tensor([[0]]), torch.tensor([1.0]), (4,), check_invariants=True)
    assert choose("allreduce", [sparse], "sum", 2) is Path.ROWS
    assert choose("allreduce", [sparse], "avg", 2) is Path.GLOO
    assert choose("reduce", [sparse], "sum", 2) is Path.GLOO
    assert choose("allreduce", [torch.ones(4)], "sum", 2) is Path.SWITCH
    assert choose("allreduce", [torch.ones(4), sparse], "sum", 2) is Path.GLOO


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_the_bytes_gathered_decide_for_allgather(world_size: int) -> None:
    largest = GATHERED_LIMIT // world_size
    for size, path in [(0, Path.SWITCH), (largest, Path.SWITCH), (largest + 1, Path.BESIDE)]:
        tensors = [torch.empty(size, dtype=torch.uint8)]
        assert choose("allgather", tensors, None, world_size) is path
        assert choose("all_gather_single_coalesced", tensors, None, world_size) is path
    half = torch.empty(largest // 2 + 1, dtype=torch.uint8)
    assert choose("allgather_coalesced", [half, half], None, world_size) is Path.BESIDE


@pytest.mark.parametrize("method", ["allreduce", "allreduce_coalesced", "reduce", "reduce_scatter"])
@pytest.mark.parametrize(
    ("dtype", "operation", "path"),
    [
        (torch.float32, "sum", Path.SWITCH),
        (torch.bfloat16, "avg", Path.SWITCH),
        (torch.complex64, "sum", Path.SWITCH),
        (torch.int8, "sum", Path.SWITCH),
        (torch.float32, "max", Path.GLOO),
        (torch.float64, "sum", Path.GLOO),
        (torch.int64, "sum", Path.GLOO),
        (torch.int32, "bxor", Path.GLOO),
        (torch.bool, "sum", Path.GLOO),
        (torch.int16, "prod", Path.SWITCH),  # gloo has no int16
    ],
)
def test_what_the_switch_cannot_sum_takes_it_only_while_small(
    method: str, dtype: torch.dtype, operation: str, path: Path
) -> None:
    assert choose(method, [torch.empty(1 << 20, dtype=dtype)], operation, 4) is path
    assert choose(method, [torch.empty(4, dtype=dtype)], operation, 4) is Path.SWITCH


def test_the_table_can_be_read() -> None:
    lines = routing_table().splitlines()
    assert len(lines) == len(ROUTES) + 1 == len(routing_rows()) + 1
    assert any("allreduce" in line and "switch" in line for line in lines)
    assert any("alltoall" in line and "gloo" in line for line in lines)


DOCUMENT = FilePath(__file__).parents[2] / "docs/torch.md"


def test_the_document_shows_the_table() -> None:
    assert routing_markdown() in DOCUMENT.read_text(), "run: make docs"


def test_the_document_is_brought_up_to_date(tmp_path: FilePath) -> None:
    stale = tmp_path / "stale.md"
    stale.write_text(DOCUMENT.read_text().replace("all_to_all_single", "something_else"))
    main([str(stale)])
    assert stale.read_text() == DOCUMENT.read_text()


def test_gloo_gets_a_call_as_it_is_only_where_it_takes_it() -> None:
    plain, turned = torch.ones(4, 6), torch.ones(6, 4).t()
    assert taken_by_gloo("allreduce", [plain], [], 2)
    assert not taken_by_gloo("allreduce", [turned], [], 2)
    assert not taken_by_gloo("allreduce", [plain.short()], [], 2)
    assert taken_by_gloo("allgather", [plain], [plain, plain], 2)
    assert not taken_by_gloo("allgather", [plain], [plain, turned], 2)
    assert not taken_by_gloo("allgather", [plain], [plain, plain.reshape(24)], 2)
    assert taken_by_gloo("all_gather_single", [plain], [torch.empty(8, 6)], 2)
    assert not taken_by_gloo("all_gather_single", [plain], [torch.empty(2, 4, 6)], 2)
    assert not taken_by_gloo("all_gather_single", [torch.tensor(1.0)], [torch.empty(2)], 2)
    assert not taken_by_gloo("reduce", [plain], [], 2)  # it spoils the tensors of the other ranks
    assert taken_by_gloo("reduce", [plain.to_sparse()], [], 2)
    assert taken_by_gloo("scatter", [turned], [], 2)  # torch's own, which refuses it
