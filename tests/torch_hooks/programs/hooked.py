"""DDP over gloo, its gradients by the hook, against plain DDP; prints what the test compares as its last line.

hooked.py WIRES...
"""

import hashlib
import json
import sys

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_wrapper
from torch.nn.parallel import DistributedDataParallel

from switchml.torch_backend.hooks import SwitchState, switchml_hook

WIRES = sys.argv[1:]
STEPS = 8

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()


def train(state, hook=switchml_hook):
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(60, 400), torch.nn.ReLU(), torch.nn.Linear(400, 1))
    model = DistributedDataParallel(module, bucket_cap_mb=0.02)
    if state is not None:
        model.register_comm_hook(state, hook)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(50 + rank)
    losses = []
    for _ in range(STEPS):
        inputs = torch.randn(32, 60, generator=generator)
        optimizer.zero_grad()
        loss = (model(inputs) - inputs[:, :3].sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    sent = 0
    if state is not None:
        counters = state.counters()
        # On a busy machine packets go out again: their share is taken off.
        again = counters["retransmissions"] / counters["packets_sent"]
        sent = counters["bytes_sent"] * (1 - again)
        state.close()
    bits = b"".join(parameter.detach().numpy().tobytes() for parameter in module.parameters())
    return losses, hashlib.sha256(bits).hexdigest(), sent


plain, plain_digest, _ = train(None)
reports = {}
for wire in WIRES:
    hooked, digest, sent = train(SwitchState(wire=wire))
    _, second_digest, _ = train(SwitchState(wire=wire))
    _, wrapped_digest, _ = train(SwitchState(wire=wire), fp16_compress_wrapper(switchml_hook))
    reports[wire] = {
        "distance": max(abs(a - b) / a for a, b in zip(plain, hooked, strict=True)),
        "plain_digest": plain_digest,
        "digest": digest,
        "second_digest": second_digest,
        "wrapped_digest": wrapped_digest,
        "sent": sent,
        "backend": dist.get_backend(),
    }
dist.destroy_process_group()
print(json.dumps(reports))
