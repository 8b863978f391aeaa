"""DDP over switchml against DDP over gloo; prints what the test compares as its last line.

training.py CASE...
"""

import copy
import hashlib
import json
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel


def model():
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(144, 200),
        torch.nn.ReLU(),
        torch.nn.Linear(200, 10),
    )


def batches(steps):
    generator = torch.Generator().manual_seed(50 + dist.get_rank())
    for _ in range(steps):
        yield torch.randn(8, 1, 8, 8, generator=generator), torch.randint(0, 10, (8,), generator=generator)


def train(module, steps=12):
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    for images, labels in batches(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(images), labels).backward()
        optimizer.step()


def digest(module):
    state = b"".join(value.detach().numpy().tobytes() for value in module.parameters())
    return hashlib.sha256(state).hexdigest()


def distance(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


def by_gloo(**options):
    reference = DistributedDataParallel(model(), process_group=GLOO, **options)
    train(reference)
    return reference.module


def plain():
    module = DistributedDataParallel(model())
    train(module)
    return {"distance": distance(module.module, by_gloo()), "digest": digest(module.module)}


def small_buckets():
    module = DistributedDataParallel(model(), bucket_cap_mb=0.0005, gradient_as_bucket_view=True)
    train(module)
    return {"distance": distance(module.module, by_gloo()), "digest": digest(module.module)}


def powersgd():
    from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook

    module = DistributedDataParallel(model())
    state = powerSGD_hook.PowerSGDState(
        None, matrix_approximation_rank=4, start_powerSGD_iter=3, min_compression_rate=1
    )
    module.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    train(module)
    return {"digest": digest(module.module)}


def accumulation():
    module = DistributedDataParallel(model())
    twin = copy.deepcopy(module.module)
    for step, (images, labels) in enumerate(batches(4)):
        if step < 3:
            with module.no_sync():
                torch.nn.functional.cross_entropy(module(images), labels).backward()
        else:
            torch.nn.functional.cross_entropy(module(images), labels).backward()
        torch.nn.functional.cross_entropy(twin(images), labels).backward()
    worst = 0.0
    for ours, local in zip(module.module.parameters(), twin.parameters(), strict=True):
        dist.all_reduce(local.grad, group=GLOO)
        worst = max(worst, (ours.grad - local.grad / dist.get_world_size()).abs().max().item())
    return {"distance": worst, "digest": digest(module.module)}


def compiled():
    module = DistributedDataParallel(model())
    train(torch.compile(module, backend="eager"))
    tensor = torch.ones(3)

    @torch.compile(backend="eager")
    def step(value):
        value = value * 2
        dist.all_reduce(value)
        torch._dynamo.graph_break()
        dist.barrier()
        return value + 1

    total = step(tensor)
    assert torch.equal(total, torch.full((3,), 2.0 * dist.get_world_size() + 1)), total
    return {"distance": distance(module.module, by_gloo()), "digest": digest(module.module)}


class Branching(torch.nn.Module):
    """Its second branch gets no gradient where `used` says so."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.first, self.second = torch.nn.Linear(6, 4), torch.nn.Linear(6, 4)

    def forward(self, value, used):
        return self.first(value) + (self.second(value) if used else 0)


def unused_parameters():
    """Ranks leave out different parameters, in one step all of them the same."""

    def run(group):
        module = DistributedDataParallel(Branching(), process_group=group, find_unused_parameters=True)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for step in range(6):
            optimizer.zero_grad()
            value = torch.full((3, 6), step + dist.get_rank() + 1.0)
            module(value, used=step != 3 and (step + dist.get_rank()) % 2 == 0).square().sum().backward()
            optimizer.step()
            for parameter in module.parameters():
                parameter.data.clamp_(-10, 10)
        return module.module

    ours = run(None)
    return {"distance": distance(ours, run(GLOO)), "digest": digest(ours)}


def static_graph():
    module = DistributedDataParallel(model(), static_graph=True, bucket_cap_mb=0.01)
    train(module)
    return {"distance": distance(module.module, by_gloo()), "digest": digest(module.module)}


def sparse_gradients():
    """Of an embedding, of which each rank looks up some rows a step."""

    def embedding():
        torch.manual_seed(2)
        return torch.nn.EmbeddingBag(5000, 32, mode="sum", sparse=True)

    def trained(group):
        module = DistributedDataParallel(embedding(), process_group=group)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
        generator = torch.Generator().manual_seed(60 + dist.get_rank())
        for _ in range(6):
            optimizer.zero_grad()
            looked_up = torch.randint(5000, (64, 5), generator=generator)
            module(looked_up).square().mean().backward()
            assert module.module.weight.grad.is_sparse
            optimizer.step()
        return module.module

    ours = trained(None)
    return {"distance": distance(ours, trained(GLOO)), "digest": digest(ours)}


def half_precision():
    """bfloat16 parameters and gradients."""

    def run(group):
        module = DistributedDataParallel(model().bfloat16(), process_group=group)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
        for images, labels in batches(4):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(images.bfloat16()).float(), labels).backward()
            optimizer.step()
        return module.module

    ours = run(None)
    return {"distance": distance(ours, run(GLOO)), "digest": digest(ours.float())}


def found_inf():
    """An Inf in one rank's gradients makes every rank's scaler skip the step, and halve its scale."""
    module = DistributedDataParallel(model())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    scales, moved = [], []
    for step, (images, labels) in enumerate(batches(4)):
        if step == 2 and dist.get_rank() == 1:
            images[0, 0, 0, 0] = float("inf")
        before = digest(module.module)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(module(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        moved.append(before != digest(module.module))
    return {"scales": scales, "moved": moved, "digest": digest(module.module)}


def joined():
    """Ranks with different numbers of batches, under torch's Join."""
    from torch.distributed.algorithms.join import Join

    module = DistributedDataParallel(model())
    steps = 0
    with Join([module]):
        for images, labels in batches(2 + dist.get_rank()):
            torch.nn.functional.cross_entropy(module(images), labels).backward()
            steps += 1
    return {"steps": steps, "digest": digest(module.module)}


def joined_by_those_left():
    """Each step divides by the ranks that are still there; C++ then keeps a handle that Python has let go."""
    module = DistributedDataParallel(model())
    steps = 0
    with module.join(divide_by_initial_world_size=False):
        for images, labels in batches(2 + dist.get_rank()):
            torch.nn.functional.cross_entropy(module(images), labels).backward()
            steps += 1
    return {"steps": steps, "digest": digest(module.module)}


def fork_workers():
    class Samples(torch.utils.data.Dataset):
        def __len__(self):
            return 64

        def __getitem__(self, index):
            return torch.full((4,), float(index))

    module = DistributedDataParallel(torch.nn.Linear(4, 1))
    seen = 0
    for _ in range(2):
        loader = torch.utils.data.DataLoader(
            Samples(), batch_size=8, num_workers=2, multiprocessing_context="fork"
        )
        for batch in loader:
            module(batch).sum().backward()
            seen += len(batch)
    return {"seen": seen, "digest": digest(module.module)}


def hybrid_sharding():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    sharded = model()
    fully_shard(
        sharded, mesh=init_device_mesh("cpu", (dist.get_world_size(), 1), mesh_dim_names=("copy", "shard"))
    )
    train(sharded, steps=3)
    full = model()
    for name, value in sharded.state_dict().items():
        full.state_dict()[name].copy_(value.full_tensor() if hasattr(value, "full_tensor") else value)
    parameters = b"".join(value.detach().numpy().tobytes() for value in full.parameters())
    return {"digest": hashlib.sha256(parameters).hexdigest()}


if __name__ == "__main__":
    dist.init_process_group("switchml", timeout=timedelta(seconds=60))
    GLOO = dist.new_group(backend="gloo")
    report = {case: globals()[case]() for case in sys.argv[1:]}
    dist.destroy_process_group()
    print(json.dumps(report))
