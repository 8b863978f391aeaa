"""The hook itself."""

# Annotations are not postponed: torch compares them with its own types.

import torch
from torch._C._distributed_c10d import GradBucket
from torch.futures import Future

from switchml.torch_backend.hooks.state import SwitchState


def switchml_hook(state: SwitchState, bucket: GradBucket) -> Future[torch.Tensor]:
    """Average a bucket of gradients over the ranks, on the switch.

        model.register_comm_hook(SwitchState(), switchml_hook)

    All ranks get bitwise the same gradients. What goes wrong comes out of `backward` as a RuntimeError that tells what.
    """
    layout = tuple(parameter.data_ptr() for parameter in bucket.parameters())
    return state.averager().average(bucket.index(), layout, bucket.buffer())
