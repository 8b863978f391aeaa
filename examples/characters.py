"""Train a small transformer to predict the next character of English text, once for every wire, and draw the losses.

    switchml run -n 8 -- examples/characters.py --plot losses.png
    torchrun --nproc-per-node 8 examples/characters.py --wires float32,int8
    sudo switchml bench script --workers 4 --rate 200mbit -- examples/characters.py --wires gloo,float32,int8 --shard

The text is Python's own documentation, which every Python brings along. All models begin with the same parameters and see the
same text in the same order; only what their gradients travel as differs, or that it is gloo. The loss drawn is that of text that
none has seen. With --shard, parameters, gradients and the optimizer's state are sharded over the ranks (FSDP2).
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import compared
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

CONTEXT = 64  # characters that the model sees
BATCH = 4  # pieces of text a rank and step
WIDTH, HEADS, LAYERS = 64, 4, 2
TESTED = 64  # pieces of text the loss is taken of
PEAK = 3e-3
WARM_UP = 20


@dataclass(frozen=True)
class Text:
    """Numbers of characters, int64."""

    training: Tensor
    test: Tensor
    characters: int


@dataclass(frozen=True)
class Curve:
    """Losses of one model, in nats a character, after so many steps.

    Attributes:
        seconds: of the steps alone.
        characters_a_second: that all ranks together have learnt from.
    """

    wire: str
    world_size: int
    parameters: int
    steps: list[int]
    losses: list[float]
    seconds: float
    characters_a_second: float = 0.0


def text() -> Text:
    """Nine tenths for training, the last for the test."""
    from pydoc_data.topics import topics  # type: ignore[import-untyped, unused-ignore]

    whole = "".join(topics[name] for name in sorted(topics)).encode("ascii", "replace")
    known = sorted(set(whole))
    numbers = torch.tensor([known.index(one) for one in range(256) if one in known])
    table = torch.zeros(256, dtype=torch.long)
    table[torch.tensor(known)] = numbers
    encoded = table[torch.frombuffer(bytearray(whole), dtype=torch.uint8).long()]
    training = len(encoded) * 9 // 10
    return Text(encoded[:training], encoded[training:], len(known))


class Characters(nn.Module):
    """Characters in, scores of the next one out."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(characters, WIDTH)
        self.places = nn.Embedding(CONTEXT, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.out = nn.Linear(WIDTH, characters)

    def forward(self, characters: Tensor) -> Tensor:
        """characters: int64 (pieces, CONTEXT). Returns float32 (pieces, CONTEXT, known characters)."""
        places = torch.arange(characters.shape[1])
        mask = nn.Transformer.generate_square_subsequent_mask(characters.shape[1])
        inside = self.layers(self.characters(characters) + self.places(places), mask=mask, is_causal=True)
        scores: Tensor = self.out(inside)
        return scores


def pieces(source: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pieces of text from anywhere, and the same one character later."""
    starts = torch.randint(len(source) - CONTEXT, (count, 1), generator=generator)
    places = starts + torch.arange(CONTEXT)
    return source[places], source[places + 1]


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean over all characters."""
    given, wanted = batch
    return F.cross_entropy(model(given).flatten(0, 1), wanted.flatten())


def spread(model: Characters, group: Any, shard: bool) -> nn.Module:
    """The model over all ranks of a group: a copy on each, or sharded."""
    if not shard:
        return DistributedDataParallel(model, process_group=group)
    mesh = DeviceMesh.from_group(group, "cpu")
    for layer in model.layers.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def train(wire: str, data: Text, steps: int, every: int, seed: int, shard: bool) -> Curve:
    """Train one model over all ranks. All make the same one, and each takes other pieces of the text."""
    group = compared.group_of(wire)
    torch.manual_seed(seed)
    bare = Characters(data.characters)
    parameters = sum(one.numel() for one in bare.parameters())
    model = spread(bare, group, shard)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK)
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARM_UP, 1 - 0.9 * step / steps)
    )
    own = torch.Generator().manual_seed(1000 * seed + dist.get_rank())
    test = pieces(data.test, TESTED, torch.Generator().manual_seed(seed))
    curve = Curve(wire, dist.get_world_size(), parameters, [], [], 0.0)
    seconds = 0.0
    for step in range(steps + 1):
        # Of a sharded model no rank has all, so all of them go through it.
        if (dist.get_rank() == 0 or shard) and (step % every == 0 or step == steps):
            with torch.no_grad():
                curve.steps.append(step)
                curve.losses.append(loss_of(model if shard else bare, test).item())
        if step < steps:
            begin = time.perf_counter()
            optimizer.zero_grad()
            loss_of(model, pieces(data.training, BATCH, own)).backward()
            optimizer.step()
            rates.step()
            seconds += time.perf_counter() - begin
    # DistributedDataParallel must not be gloo's last owner: it would wait for gloo's threads with the interpreter locked, which
    # they may wait for themselves (pytorch/pytorch#56297).
    del model
    compared.leave(group)
    learnt = steps * BATCH * CONTEXT * dist.get_world_size()
    return Curve(**{**asdict(curve), "seconds": seconds, "characters_a_second": learnt / seconds})


def draw(curves: list[Curve], path: Path) -> None:
    """Losses above, and what they differ by from the first wire's below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (top, below) = pyplot.subplots(
        2, figsize=(7.6, 6.2), sharex=True, height_ratios=(2, 1), layout="constrained"
    )
    for curve, line in zip(curves, ("-", "--", ":", "-."), strict=False):
        name = (
            f"{curve.wire}: {curve.losses[-1]:.3f} in the end, {curve.characters_a_second:,.0f} characters/s"
        )
        top.plot(curve.steps, curve.losses, line, label=name)
        below.plot(curve.steps, [a - b for a, b in zip(curve.losses, curves[0].losses, strict=True)], line)
    first = curves[0]
    top.set_title(
        f"Next character of English text, a transformer of {first.parameters:,} parameters, {first.world_size} workers",
        fontsize="medium",
    )
    top.set_ylabel("loss of unseen text (nats)")
    top.legend(frameon=False)
    below.set_ylabel(f"loss - {first.wire}'s")
    below.set_xlabel("steps")
    for axes in (top, below):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def main() -> None:
    """One rank of the training."""
    parser = compared.parser(__doc__)
    parser.add_argument("--wires", default=",".join(compared.WIRES), help="of these, or gloo")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=10, help="steps from one test to the next")
    parser.add_argument("--shard", action="store_true", help="FSDP2 in the place of DistributedDataParallel")
    args = parser.parse_args()
    wires = compared.names(args.wires)
    compared.join("switchml run -n 8 -- examples/characters.py")
    torch.use_deterministic_algorithms(True)
    try:
        data = text()
        curves = [train(wire, data, args.steps, args.every, args.seed, args.shard) for wire in wires]
        if dist.get_rank() == 0:
            for curve in curves:
                print(
                    f"{curve.wire:8}  loss {curve.losses[-1]:.4f} after {curve.steps[-1]} steps, {curve.seconds:.1f} s, "
                    f"{curve.characters_a_second:,.0f} characters a second"
                )
            if args.json:
                args.json.write_text(json.dumps([asdict(curve) for curve in curves], indent=2) + "\n")
            if args.plot:
                draw(curves, args.plot)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
