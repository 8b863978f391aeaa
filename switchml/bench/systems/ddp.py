"""A data-parallel training step over a backend of torch.distributed."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from switchml.bench.systems.catalogue import Place
from switchml.bench.verification import Array

WIDTH = 2048
_LAYER = WIDTH * WIDTH + WIDTH
_VARIABLES = {
    "switch": "SWITCHML_SWITCH",
    "token": "SWITCHML_TOKEN",
    "transport": "SWITCHML_TRANSPORT",
    "payload": "SWITCHML_PAYLOAD",
    "window": "SWITCHML_WINDOW",
    "wire": "SWITCHML_WIRE",
}


def layers_of(parameters: int) -> int:
    """Layers of WIDTH x WIDTH that come nearest to that many parameters; at least one."""
    return max(1, round(parameters / _LAYER))


def size_of(parameters: int) -> int:
    """Bytes of the gradients of that model, float32."""
    return 4 * layers_of(parameters) * _LAYER


def layers_for(parameters: int) -> list[torch.nn.Module]:
    """The model's layers."""
    layers: list[torch.nn.Module] = []
    for _ in range(layers_of(parameters)):
        layers += [torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU()]
    return layers


class DdpTraining:
    """One rank of a training. A "reduction" is a whole step: forward, backward with DDP's own reducer, SGD.

    Options: backend, parameters, batch, timeout; for backend "switchml" also switch, token, transport, payload, window, wire.
    """

    def open(self, place: Place) -> None:
        """Join the group through a file store, and get ready."""
        options = place.options
        for name, variable in _VARIABLES.items():
            if name in options:
                os.environ[variable] = str(options[name])
        os.environ["GLOO_SOCKET_IFNAME"] = place.interface
        torch.set_num_threads(1)
        torch.manual_seed(0)
        dist.init_process_group(
            options["backend"],
            init_method=(Path(place.rendezvous) / "store").as_uri(),
            rank=place.rank,
            world_size=place.world_size,
            timeout=datetime.timedelta(seconds=options["timeout"]),
        )
        self._facts = {"backend": options["backend"], "torch": torch.__version__}
        self.prepare(place)

    def prepare(self, place: Place) -> None:
        """What is measured, once the group is there."""
        self._model = self.spread(torch.nn.Sequential(*layers_for(place.options["parameters"])))
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=1e-4)
        generator = torch.Generator().manual_seed(place.rank)
        self._inputs = torch.randn(place.options["batch"], WIDTH, generator=generator)

    def spread(self, model: torch.nn.Sequential) -> torch.nn.Module:
        """The model, over all ranks."""
        # Gradients as views of the buckets, as torch advises: no copies of 100 MB on top of what is measured.
        return DistributedDataParallel(model, gradient_as_bucket_view=True)

    def allreduce(self, buffer: Array, dtype: str, op: str) -> None:
        """One step. The arguments are the all-reduce benchmark's and not used."""
        self._optimizer.zero_grad(set_to_none=True)
        self._model(self._inputs).square().mean().backward()
        self._optimizer.step()

    def barrier(self) -> None:
        """The group's."""
        dist.barrier()

    def error_bound(self) -> float:
        """Nothing is verified here: see the tests of the backend."""
        return 0.0

    def counters(self) -> dict[str, int]:
        """None."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Backend and version."""
        return self._facts

    def close(self) -> None:
        """Leave the group."""
        dist.destroy_process_group()
