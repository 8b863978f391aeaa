"""A training step with FSDP2 over a backend of torch.distributed."""

from __future__ import annotations

import torch
from torch.distributed.fsdp import fully_shard
from typing_extensions import override

from switchml.bench.systems.ddp import DdpTraining


class ShardedTraining(DdpTraining):
    """One rank of a training whose parameters, gradients and optimizer are sharded. Options: those of `DdpTraining`."""

    @override
    def spread(self, model: torch.nn.Sequential) -> torch.nn.Module:
        layers = [layer for layer in model if isinstance(layer, torch.nn.Linear)]
        for layer in layers:
            fully_shard(layer)
        fully_shard(model)
        return model
