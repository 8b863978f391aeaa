"""Sharded training and checkpoints over switchml against the same over gloo; prints what the test compares.

sharded.py FOLDER CASE...
"""

import hashlib
import json
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel


def model(width=3000):  # large enough for block floating point
    torch.manual_seed(3)
    return torch.nn.Sequential(
        torch.nn.Linear(16, width), torch.nn.ReLU(), torch.nn.Linear(width, 33), torch.nn.Linear(33, 4)
    )


def batches(steps):
    generator = torch.Generator().manual_seed(70 + dist.get_rank())
    for _ in range(steps):
        yield torch.randn(8, 16, generator=generator), torch.randn(8, 4, generator=generator)


def train(module, optimizer, steps=6):
    losses = []
    for values, targets in batches(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(module(values), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def full_state(module):
    state = {
        name: getattr(value, "full_tensor", lambda value=value: value)()
        for name, value in module.state_dict().items()
    }
    return torch.cat([value.detach().double().reshape(-1) for value in state.values()])


def told(ours, by_gloo):
    raw = ours.numpy().tobytes()
    return {
        "distance": (ours - by_gloo).abs().max().item(),
        "exact": torch.equal(ours, by_gloo),
        "digest": hashlib.sha256(raw).hexdigest(),
    }


def mesh_over(group):
    return DeviceMesh.from_group(group, "cpu")


def fsdp(group, **options):
    module = model()
    for layer in module:
        if isinstance(layer, torch.nn.Linear):
            fully_shard(layer, mesh=mesh_over(group), **options)
    fully_shard(module, mesh=mesh_over(group), **options)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    return module, optimizer


def fsdp2():
    results = []
    for group in (OURS, GLOO):
        module, optimizer = fsdp(group)
        train(module, optimizer)
        results.append(full_state(module))
    return told(*results)


def fsdp2_losses():
    """Of steps over each, and what of the gradients went over the switch."""
    losses, sent = [], []
    for group in (OURS, GLOO):
        module, optimizer = fsdp(group)
        before = counted(OURS)
        losses.append(train(module, optimizer))
        sent.append(counted(OURS) - before)
        gradients = sum(4 * value.numel() for value in module.parameters())
    return {"losses": losses, "sent": sent, "gradients": gradients}


def counted(group):
    return group.switch_counters()["bytes_sent"]


def fsdp1():
    """It frees its flat parameters by resizing their storage."""
    results = []
    for group in (OURS, GLOO):
        module = FullyShardedDataParallel(model(), process_group=group, device_id=torch.device("cpu"))
        train(module, torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9))
        with FullyShardedDataParallel.summon_full_params(module, writeback=False):
            results.append(torch.cat([value.detach().double().reshape(-1) for value in module.parameters()]))
    return told(*results)


def fsdp2_without_reshard():
    """Gradients accumulate over three batches before they are reduced, and parameters stay whole between passes."""
    results = []
    for group in (OURS, GLOO):
        module, optimizer = fsdp(group, reshard_after_forward=False)
        for step, (values, targets) in enumerate(batches(3)):
            module.set_requires_gradient_sync(step == 2)
            torch.nn.functional.mse_loss(module(values), targets).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 0.1)
        optimizer.step()
        results.append(full_state(module))
    return told(*results)


def fsdp2_mixed_precision():
    results = []
    for group in (OURS, GLOO):
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        module, optimizer = fsdp(group, mp_policy=policy)
        train(module, optimizer, steps=3)
        results.append(full_state(module))
    return told(*results)


def zero_optimizer():
    results = []
    for group in (OURS, GLOO):
        module = DistributedDataParallel(model(), process_group=group)
        optimizer = ZeroRedundancyOptimizer(
            module.parameters(), torch.optim.Adam, process_group=group, lr=0.01
        )
        train(module, optimizer)
        optimizer.consolidate_state_dict()
        if dist.get_rank() == 0:
            assert len(optimizer.state_dict()["state"]) == len(list(module.parameters()))
        results.append(full_state(module))
    return told(*results)


def checkpoint():
    """Saved over switchml, loaded over gloo, and the other way round; training goes on as if nothing had happened."""
    module, optimizer = fsdp(OURS)
    train(module, optimizer, steps=2)
    folder = os.path.join(FOLDER, "sync")
    dcp.save({"model": module.state_dict()}, checkpoint_id=folder, process_group=OURS)
    distances = []
    for group in (OURS, GLOO):
        other, _ = fsdp(group)
        state = {"model": other.state_dict()}
        dcp.load(state, checkpoint_id=folder, process_group=group)
        other.load_state_dict(state["model"])
        distances.append((full_state(other) - full_state(module)).abs().max().item())
    assert distances == [0.0, 0.0], distances
    return told(full_state(module), full_state(module))


def checkpoint_in_the_background():
    """async_save while training goes on with collectives of its own."""
    module, optimizer = fsdp(OURS)
    train(module, optimizer, steps=2)
    before = full_state(module)
    folder = os.path.join(FOLDER, "async")
    # Its thread has to have a group of its own: torch asks for one with a CPU backend.
    saving = dcp.async_save(
        {"model": module.state_dict()}, checkpoint_id=folder, process_group=dist.new_group()
    )
    train(module, optimizer, steps=4)
    saving.result(60)
    other, _ = fsdp(OURS)
    state = {"model": other.state_dict()}
    dcp.load(state, checkpoint_id=folder, process_group=OURS)
    other.load_state_dict(state["model"])
    return told(full_state(other), before)


def sync_batch_norm():
    """On CPU torch refuses it, with every backend in the same words."""
    words = []
    for group in (OURS, GLOO):
        module = torch.nn.SyncBatchNorm.convert_sync_batchnorm(
            torch.nn.Sequential(torch.nn.Conv1d(1, 2, 3), torch.nn.BatchNorm1d(2)), group
        )
        try:
            wrapped = DistributedDataParallel(module, process_group=group)
            wrapped(torch.randn(4, 1, 8) + dist.get_rank()).sum().backward()
            words.append([round(value, 5) for value in wrapped.module[1].running_mean.tolist()])
        except Exception as error:
            words.append(f"{type(error).__name__}: {error}")
    return {"distance": float(words[0] != words[1]), "digest": str(words[0])}


if __name__ == "__main__":
    dist.init_process_group("switchml", timeout=timedelta(seconds=60))
    OURS, GLOO = dist.group.WORLD, dist.new_group(backend="gloo")
    FOLDER = sys.argv[1]
    report = {case: globals()[case]() for case in sys.argv[2:]}
    dist.destroy_process_group()
    print(json.dumps(report))
