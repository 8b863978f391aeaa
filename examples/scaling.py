"""How ResNet-50 would scale: its real gradients over a real network, beside accelerators that are stood in for by waiting.

    sudo switchml bench script --workers 8 --rate 1gbit -- examples/scaling.py --workers 1,2,4,5,8 --plot scaling.png
    sudo switchml bench script --workers 8 --rate 100mbit -- examples/scaling.py --workers 1,2,4,5,8 --slower 10

This trains nothing. Where an accelerator would compute, the rank waits: a third of a step for the forward pass, then, layer by
layer from the last to the first in proportion to their multiply-adds, the backward pass. Buckets are DistributedDataParallel's:
as soon as the layers of one are through, as many bytes as it has are all-reduced, while the waiting goes on. The step ends with
the last of them. So what is measured is the network, and how much of it hides behind the computing.

`--slower 10` stretches time: accelerators compute a tenth as fast, and links should be a tenth as fast, too. All that is told
is in the time of the fast ones. A machine that plays all hosts and the switch is then not the limit (time dilation: Gupta et
al., NSDI 2006).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import compared
import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import _DEFAULT_FIRST_BUCKET_BYTES, _compute_bucket_assignment_by_size

MIB = 1 << 20
FORWARD = 1 / 3  # of a step's computing; backward does it twice, for inputs and for weights
STAGES = ((64, 3, 56), (128, 4, 28), (256, 6, 14), (512, 3, 7))  # width, blocks, height of the images inside
ALONE = "alone"
REFILL = 8  # steps until gradients, which are summed in place, are written anew


class Layer(NamedTuple):
    """Sizes of its parameters, and multiply-adds for one image."""

    parameters: tuple[int, ...]
    work: int


class Bucket(NamedTuple):
    """Elements, and the part of the backward pass after which all of them are there."""

    elements: int
    ready: float


@dataclass(frozen=True)
class Speed:
    """One system with so many workers.

    Attributes:
        images: a second, of all workers together, a value a round.
        efficiency: median of these, as a part of what as many accelerators without a network would do.
    """

    system: str
    workers: int
    images: list[float]
    efficiency: float


def _convolution(inside: int, outside: int, kernel: int, height: int) -> Iterator[Layer]:
    weights = inside * outside * kernel * kernel
    yield Layer((weights,), weights * height * height)
    yield Layer((outside, outside), 0)  # batch norm


def resnet50() -> list[Layer]:
    """The layers in the forward pass's order, for images of 224 x 224 (He et al., CVPR 2016; strides as torchvision has them)."""
    layers = list(_convolution(3, 64, 7, 112))
    inside = 64
    for width, blocks, height in STAGES:
        for block in range(blocks):
            before = height * 2 if block == 0 and width > 64 else height
            layers += _convolution(inside, width, 1, before)
            layers += _convolution(width, width, 3, height)
            layers += _convolution(width, 4 * width, 1, height)
            if block == 0:
                layers += _convolution(inside, 4 * width, 1, height)
            inside = 4 * width
    return [*layers, Layer((inside * 1000, 1000), inside * 1000)]


def buckets(layers: list[Layer], largest: float) -> list[Bucket]:
    """As DistributedDataParallel deals gradients: from the last layer to the first.

    Args:
        layers: in the forward pass's order.
        largest: MiB of a bucket, about; the first one has less.
    """
    done, whole = 0, sum(layer.work for layer in layers)
    sizes, ready = [], []
    for layer in reversed(layers):
        done += layer.work
        for size in reversed(layer.parameters):
            sizes.append(size)
            ready.append(done / whole)
    dealt, _ = _compute_bucket_assignment_by_size(
        [torch.empty(size, device="meta") for size in sizes],
        [_DEFAULT_FIRST_BUCKET_BYTES, round(largest * MIB)],
    )
    return [
        Bucket(sum(sizes[index] for index in one), max(ready[index] for index in one))
        for one in sorted(dealt, key=min)
    ]


def wait_until(moment: float) -> None:
    """Stands in for an accelerator that has something done by then, whatever its host does meanwhile."""
    time.sleep(max(0.0, moment - time.perf_counter()))


def step(gradients: list[tuple[Bucket, Tensor]], group: Any, computing: float) -> None:
    """One step, `computing` seconds long without a network; group None: it has none."""
    begin = time.perf_counter()
    works = []
    for bucket, gradient in gradients:
        wait_until(begin + computing * (FORWARD + (1 - FORWARD) * bucket.ready))
        if group is not None:
            works.append(dist.all_reduce(gradient, group=group, async_op=True))
    for work in works:
        if work is not None:
            work.wait()


def seconds_a_step(gradients: list[tuple[Bucket, Tensor]], group: Any, computing: float, steps: int) -> float:
    """Of this rank, over so many steps. All ranks of the group begin together."""
    if group is not None:
        dist.barrier(group)
    begin = time.perf_counter()
    for _ in range(steps):
        step(gradients, group, computing)
    return (time.perf_counter() - begin) / steps


def measure(
    workers: int, systems: list[str], options: Any, gradients: list[tuple[Bucket, Tensor]]
) -> list[Speed]:
    """Every system in turn, among the first `workers` ranks. Called by all ranks; those that are not among them wait."""
    computing = options.slower * options.batch / options.images
    inside = dist.get_rank() < workers
    groups = {system: compared.members(system, workers) for system in systems}
    images: dict[str, list[float]] = {system: [] for system in systems}
    generator = torch.Generator().manual_seed(options.seed + dist.get_rank())
    for number in range(1 + options.rounds):
        for system, group in groups.items():
            seconds = 0.0
            if inside:
                for _, gradient in gradients:
                    gradient.normal_(0, 1e-3, generator=generator)
                steps = options.steps if number else 1  # the first round joins and warms up
                seconds = seconds_a_step(gradients, group, computing, steps)
            seconds = compared.slowest(seconds)
            if number:
                images[system].append(workers * options.batch / seconds * options.slower)
    for group in groups.values():
        compared.leave(group)
    return [
        Speed(system, workers, found, statistics.median(found) / (workers * options.images))
        for system, found in images.items()
    ]


def draw(speeds: list[Speed], title: str, path: Path, images: float) -> None:
    """Images a second over workers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.6, 4.6), layout="constrained")
    marks = sorted({one.workers for one in speeds})
    axes.plot(marks, [images * mark for mark in marks], ":", color="black", label="no network at all")
    systems = dict.fromkeys(one.system for one in speeds if one.workers > 1)
    for system, marker in zip(systems, "osD^", strict=False):
        own = [one for one in speeds if one.system in (ALONE, system)]
        axes.plot(
            [one.workers for one in own],
            [statistics.median(one.images) for one in own],
            "--" if system == compared.GLOO else "-",
            marker=marker,
            label=f"{system}: {own[-1].efficiency:.0%} of it with {own[-1].workers}",
        )
    axes.set_xticks(marks)
    axes.set_xlabel("workers")
    axes.set_ylabel("images a second, computing stood in for by waiting")
    axes.set_title(title, fontsize="medium")
    axes.set_ylim(0)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def main() -> None:
    """One rank."""
    parser = compared.parser(__doc__)
    parser.add_argument("--workers", default="", help="numbers of workers: 1,2,4,5,8; default: all ranks")
    parser.add_argument("--systems", default=",".join(compared.SYSTEMS))
    parser.add_argument("--images", type=float, default=210.0, help="a second, of one accelerator")
    parser.add_argument("--batch", type=int, default=64, help="images a worker and step")
    parser.add_argument("--bucket", type=float, default=25.0, help="MiB of a bucket, at most about")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slower", type=float, default=1.0, help="stretch all time by this")
    options = parser.parse_args()
    options.steps = min(options.steps, REFILL)
    systems = compared.names(options.systems)
    compared.join("sudo switchml bench script --workers 8 --rate 1gbit -- examples/scaling.py")
    try:
        dealt = buckets(resnet50(), options.bucket)
        gradients = [(bucket, torch.empty(bucket.elements)) for bucket in dealt]
        title = (
            f"ResNet-50's gradients ({sum(one.elements for one in dealt):,} in {len(dealt)} buckets), "
            f"{compared.links(options.slower)}\n{options.images:g} images a second and accelerator, "
            f"{options.batch} a step: stood in for by waiting, nothing is trained"
        )
        if options.slower != 1:
            title += f"\nin time stretched {options.slower:g} times, links and computing alike"
        compared.say(title)
        speeds = []
        counts = (
            [int(word) for word in options.workers.split(",")] if options.workers else [dist.get_world_size()]
        )
        for workers in counts:
            for one in measure(workers, systems if workers > 1 else [ALONE], options, gradients):
                compared.say(
                    f"{workers} workers  {one.system:8}  {statistics.median(one.images):7.1f} images/s "
                    f"[{min(one.images):.1f} {max(one.images):.1f}]  {one.efficiency:4.0%} of linear"
                )
                speeds.append(one)
        compared.write(
            options.json,
            title=title,
            batch=options.batch,
            images=options.images,
            slower=options.slower,
            buckets=dealt,
            results=[asdict(one) for one in speeds],
        )
        if options.plot and dist.get_rank() == 0:
            draw(speeds, title, options.plot, options.images)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
