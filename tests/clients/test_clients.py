"""Small training programs under other people's engines: over switchml and over gloo, the losses are the same.

Heavy to install: `make test-clients` does it, in an environment of their own. Elsewhere these tests are skipped.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from free_port import free_port

PROGRAMS = Path(__file__).parent / "programs"
WORKERS = 2

# A gradient is off by at most 2^-29 of the largest in its packet (docs/protocol.md, two workers), before its rounding to
# float32; gloo's is rounded once as well. What a dozen steps of descent make of such a difference stays below this.
TOLERANCE = 1e-5

# Now and then a thread of gloo's own ends a program so, after its last line: of the runs to compare with, not of ours.
GLOO_ABORTS = "terminate called without an active exception"

CLIENTS = {
    "lightning": "lightning",
    "accelerate": "accelerate",
    "transformers": "transformers",
    "deepspeed": "deepspeed",
    "ray": "ray.train",
}


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def _needs(client: str) -> None:
    if not _installed("torch"):
        pytest.skip("torch is in the extra `torch`")
    if not _installed(CLIENTS[client]):
        pytest.skip(f"{client} is in the extra `clients`: make test-clients")


def _train(client: str, backend: str, folder: Path) -> list[dict[str, Any]]:
    """What each rank saw."""
    folder.mkdir()
    program = [str(PROGRAMS / f"with_{client}.py"), backend, str(folder)]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(WORKERS), "--master-addr", "127.0.0.1"]
    launcher = [] if client == "ray" else [*torchrun, "--master-port", str(free_port())]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(PROGRAMS),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        "DS_ACCELERATOR": "cpu",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, *launcher, *program],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=400,
        )
        if backend != "gloo" or GLOO_ABORTS not in done.stderr:
            break
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(WORKERS)]


def _check(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert len(mine["losses"]) == 12
        assert mine["losses"] == pytest.approx(other["losses"], rel=TOLERANCE, abs=TOLERANCE)
        assert other["backend"] == "gloo"
        assert other["packets"] == 0
    assert ours[0]["losses"] != ours[1]["losses"]  # each rank has data of its own
    means = [sum(rank["losses"][step] for rank in ours) for step in (0, -1)]
    assert means[1] < means[0]


@pytest.fixture(scope="module")
def over_gloo(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Reports of a client over gloo, made once."""
    known: dict[str, list[dict[str, Any]]] = {}

    def reports(client: str) -> list[dict[str, Any]]:
        if client not in known:
            known[client] = _train(client, "gloo", tmp_path_factory.mktemp(client) / "gloo")
        return known[client]

    return reports


@pytest.mark.timeout(900)
@pytest.mark.parametrize("client", CLIENTS)
def test_losses_are_those_of_gloo(client: str, over_gloo: Any, tmp_path: Path) -> None:
    _needs(client)
    ours = _train(client, "switchml", tmp_path / "switchml")
    assert all(rank["backend"] == "switchml" and rank["packets"] > 0 for rank in ours)
    _check(ours, over_gloo(client))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("client", ["lightning", "accelerate"])
def test_losses_with_the_hook_are_those_of_gloo(client: str, over_gloo: Any, tmp_path: Path) -> None:
    """Where the client lets a communication hook be given, the process group stays gloo."""
    _needs(client)
    ours = _train(client, "hook", tmp_path / "hook")
    assert all(rank["backend"] == "gloo" for rank in ours)
    _check(ours, over_gloo(client))
