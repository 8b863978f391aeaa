"""On a GPU: a gate lets a stream wait for the host while other streams and the host go on."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="torch is in the extra `torch`")

import torch

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from switchml.torch_backend.cuda.side_stream import CudaStream
from switchml.torch_backend.cuda.staged import Streams

DEVICE = torch.device("cuda", 0)


def test_a_gate_lets_the_stream_wait_for_the_host() -> None:
    streams = Streams(CudaStream(DEVICE), CudaStream(DEVICE))
    there, here = torch.zeros(4, device=DEVICE), streams.up.pinned((4,), torch.float32)
    gate = streams.up.gate()
    for value in (1.0, 2.0):
        gate.close()
        streams.up.run(lambda: there.copy_(here, non_blocking=True))
        arrived = streams.up.mark()
        streams.down.run(lambda: there + 1)
        streams.down.mark().synchronize()
        assert not arrived.query()
        here.fill_(value)
        gate.open()
        arrived.synchronize()
        assert there.tolist() == [value] * 4


def test_who_waits_for_the_future_waits_with_the_stream() -> None:
    stream = CudaStream(DEVICE)
    there, here = torch.zeros(4, device=DEVICE), stream.pinned((4,), torch.float32)
    here.fill_(5.0)
    gate = stream.gate()
    gate.close()
    stream.run(lambda: there.copy_(here, non_blocking=True))
    future = stream.future()
    stream.run(lambda: future.set_result([there]))
    assert future.wait()[0] is there
    doubled = there * 2
    assert not torch.cuda.current_stream(DEVICE).query()
    gate.open()
    assert doubled.tolist() == [10.0] * 4
