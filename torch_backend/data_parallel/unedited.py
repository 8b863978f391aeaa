"""The run of a script that knows nothing of its ranks: what of torch is followed or replaced, and when ranks agree.

Followed by torch's own hooks: the registration of parameters and buffers in modules, every optimizer's step, parameters'
gradients. Replaced, since torch has no hook there: `DataLoader.__iter__`, `Optimizer.add_param_group`, `sys.excepthook`, and
what `first_rank_only` names.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import os
import random
import sys
import time
import traceback
import weakref
import zlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules import module as module_hooks
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import optimizer as optimizer_hooks
from torch.utils.data import DataLoader
from torch.utils.weak import WeakIdKeyDictionary

from switchml.errors import SwitchMLError, UsageError
from switchml.torch_backend.backend_name import BACKEND_NAME
from switchml.torch_backend.data_parallel.batch_shares import Share, SharedBatches, check_splittable
from switchml.torch_backend.data_parallel.first_rank_only import FirstRankOnly
from switchml.torch_backend.data_parallel.gradient_means import GradientMeans
from switchml.torch_backend.data_parallel.like_ranks import (
    GONE,
    differing,
    digest,
    part_generators,
    share_generators,
)
from switchml.torch_backend.data_parallel.step_times import StepTimes

EVERY_RANK = "every-rank"
"""A value of SWITCHML_DATA_PARALLEL: all ranks print and write."""


class UneditedRun:
    """Of one rank.

    Args:
        rank: this process's.
        world_size: ranks, at least 2.
        every_rank: all print and write.
        folder: where the times of the steps go at the end; "" = nowhere.
    """

    def __init__(self, rank: int, world_size: int, *, every_rank: bool = False, folder: str = "") -> None:
        self._rank, self._world_size, self._folder = rank, world_size, folder
        self._first_only = None if every_rank else FirstRankOnly(rank)
        self._times = StepTimes()
        self._means = GradientMeans(self._times)
        self._modules: list[weakref.ref[nn.Module]] = []
        self._optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._batches: weakref.WeakKeyDictionary[Any, SharedBatches] = weakref.WeakKeyDictionary()
        self._recent: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._loop_began = False  # and no optimizer has stepped since
        self._grown_since = True  # modules or optimizers are new
        self._shared: Any = WeakIdKeyDictionary()
        self._known: list[weakref.ref[torch.Tensor]] = []
        self._failed = False
        self._undo = contextlib.ExitStack()
        self._fetched = _Fetched(self._means, world_size)

    def install(self) -> Callable[[], None]:
        """From now on; returns what undoes it."""

        def register(module: nn.Module, name: str, value: Any) -> None:
            self._grown_since = True
            if not self._modules or self._modules[-1]() is not module:
                self._modules.append(weakref.ref(module))

        for handle in (
            module_hooks.register_module_parameter_registration_hook(register),
            module_hooks.register_module_buffer_registration_hook(register),
            optimizer_hooks.register_optimizer_step_pre_hook(self._before_step),
        ):
            self._undo.callback(handle.remove)
        self._replace(
            torch.optim.Optimizer, "add_param_group", self._grown(torch.optim.Optimizer.add_param_group)
        )
        self._replace(DataLoader, "__iter__", self._iterated(DataLoader.__iter__))
        self._replace(sys, "excepthook", self._on_error(sys.excepthook))
        if self._first_only is not None:
            self._first_only.install(self._replace)
        return self._undo.close

    def _replace(self, owner: Any, name: str, value: Any) -> None:
        self._undo.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)

    def _grown(self, add: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(add)
        def add_param_group(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> None:
            if isinstance(optimizer, torch.optim.LBFGS):
                raise UsageError(
                    "--data-parallel cannot split LBFGS: it decides by losses, of which each worker has that of its share"
                )
            add(optimizer, group)
            self._grown_since = True
            self._optimizers.add(optimizer)
            self._recent.add(optimizer)
            self._means.add(_parameters(optimizer))

        return add_param_group

    def _iterated(self, iterate: Callable[[Any], Iterator[Any]]) -> Callable[[Any], Iterator[Any]]:
        @functools.wraps(iterate)
        def __iter__(loader: Any) -> Iterator[Any]:
            self._collect()
            split = self._trains()
            if split:
                check_splittable(loader)
                self._agree()
                self._loop_began = True
            if self._means.active:
                share_generators()
            batches = self._batches_of(loader)
            if batches is None:
                return iterate(loader)
            batches.split = split
            # The loader forbids the assignment; its iterators ask for the sampler while they are made, and keep it.
            loader.__dict__["batch_sampler"] = batches
            try:
                iterator = iterate(loader)
            finally:
                loader.__dict__["batch_sampler"] = batches.original
            if not split:
                self._fetched.whole()
                return iterator
            return _SplitLoop(iterator, batches, self._fetched, self._means.backwards, self._times)

        return __iter__

    def _batches_of(self, loader: Any) -> SharedBatches | None:
        if loader.batch_sampler is None:
            return None
        if loader not in self._batches:
            self._batches[loader] = SharedBatches(
                loader.batch_sampler, self._rank, self._world_size, self._drawn
            )
        return self._batches[loader]

    def _drawn(self, checksum: int) -> None:
        for rank, _ in differing([checksum]):
            raise UsageError(
                f"the order of the samples on rank {rank} is not rank 0's: the script shuffles by something that is not torch's, "
                "numpy's or Python's global generator, or seeds one by the clock"
            )
        part_generators(self._rank)

    def _collect(self) -> None:
        """Or one rank still has modules in circles that another has lost already."""
        if self._grown_since:
            gc.collect()
            self._grown_since = False

    def _trains(self) -> bool:
        """Whether a loader is asked for training: gradients are on, and a module that is trained is in that mode.

        Trained is what optimizers have that are new, or have stepped in the last loop.
        """
        trained = {
            id(each) for optimizer in self._recent for each in _parameters(optimizer) if each.requires_grad
        }
        if not trained or not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            return False
        owners = [
            module
            for module in self._living()
            if any(id(each) in trained for each in module._parameters.values())
        ]
        return not owners or any(module.training for module in owners)

    def _living(self) -> list[nn.Module]:
        found = {id(module): module for reference in self._modules if (module := reference()) is not None}
        return list(found.values())

    def _agree(self) -> None:
        """All ranks have rank 0's parameters and buffers before they train; what they already had must be the same still."""
        if not self._means.active:
            self._begin()
        for optimizer in self._optimizers:
            self._means.add(_parameters(optimizer))
        modules = self._living()
        for module in modules:
            if isinstance(module, _NormBase):
                self._means.add_norm(module)
        tensors = [
            *self._means.alive().values(),
            *(each for module in modules for each in module._buffers.values()),
        ]
        unique = {id(each): each for each in tensors if each is not None and each.layout == torch.strided}
        self._check()
        new = [each for each in unique.values() if each not in self._shared]
        if differing([len(new)]):
            raise UsageError(
                "the ranks do not have the same parameters and buffers: the script makes others on some"
            )
        for each in new:
            dist.broadcast(each.detach(), 0)
            self._shared[each] = True
            self._known.append(weakref.ref(each))

    def _check(self) -> None:
        """What ranks have had in common is the same still; what one of them has lost is not looked at."""
        tensors = [reference() for reference in self._known]
        for rank, place in differing([GONE if each is None else digest(each) for each in tensors]):
            unlike = tensors[place]
            assert unlike is not None  # compared only where all have it
            raise UsageError(
                f"a tensor of shape {tuple(unlike.shape)} has become another on rank {rank} than on rank 0: something "
                "in the script depends on the rank's share of the batches, as a learning rate set by the training loss, or a "
                "buffer that is not a batch norm's"
            )

    def _begin(self) -> None:
        if dist.is_initialized():
            raise UsageError(
                "the script makes a process group itself, so it is distributed already: leave --data-parallel out"
            )
        dist.init_process_group(BACKEND_NAME)
        if differing([hash("switchml")]):
            raise UsageError(
                "each rank has sets of strings in another order: give PYTHONHASHSEED a number, as `switchml run` does"
            )
        self._means.start(self._world_size)
        atexit.register(self._end)

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        closure = kwargs.get("closure") or (args[1] if len(args) > 1 else None)
        having = [each for each in _parameters(optimizer) if each.grad is not None]
        if closure is not None or not having:
            return
        if not self._means.active:
            raise UsageError(
                "--data-parallel found no batches to split: they come from no torch DataLoader, or the model was in eval mode "
                "when its loop began; every worker would do all of the work"
            )
        if self._loop_began:
            self._recent.clear()
            self._loop_began = False
        self._recent.add(optimizer)
        if self._means.unfinished:
            raise UsageError("a backward has failed on this rank, and the others wait for its gradients")
        for each in having:
            if not self._means.was_averaged(each):
                raise UsageError(
                    f"--data-parallel cannot tell where the gradient of a parameter of shape {tuple(each.shape)} comes from: not "
                    "from backward() of what a DataLoader gave"
                )

    def _end(self) -> None:
        """The last look at what was trained, when the script is through."""
        if self._failed or not dist.is_initialized():
            return
        try:
            self._check()
        except SwitchMLError as error:
            print(f"switchml: {error}", file=sys.__stderr__, flush=True)
            os._exit(1)
        if self._folder:
            self._times.write(self._folder, self._rank)
        dist.destroy_process_group()

    def _on_error(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            self._failed = True
            if not isinstance(error, UsageError):
                with contextlib.redirect_stderr(sys.__stderr__):
                    hook(kind, error, trace)
            elif self._rank == 0:
                print(f"switchml: {error}{_where(trace)}", file=sys.stderr, flush=True)

        return tell


class _Fetched:
    """Which batch the next backward belongs to: the last one, or several of which each rank has the same share."""

    def __init__(self, means: GradientMeans, world_size: int) -> None:
        self._means, self._world_size = means, world_size
        self._backwards = 0  # as they were when a batch was last taken
        self._unused = 0  # batches taken since
        self._ahead = False
        self._last: int | None = None

    def whole(self) -> None:
        """The next batches are not split; one that still waits for its backward has its share."""
        if not self._unused or self._backwards != self._means.backwards:
            self._forget()

    def _forget(self) -> None:
        self._unused, self._last, self._means.weight, self._means.split = 0, None, 1.0, False

    def one(self, share: Share) -> None:
        """The script takes a batch."""
        if self._backwards != self._means.backwards:
            self._ahead |= self._unused > 1
            self._backwards, self._unused = self._means.backwards, 0
        self._unused += 1
        # Not the weight, by which ranks would judge differently.
        size = share.whole if share.whole % self._world_size else 0
        if self._last not in (None, size) and (self._ahead or self._unused > 1):
            raise UsageError(
                "the script takes several batches before a backward, and --data-parallel cannot split them into equal shares: "
                "give the DataLoader drop_last=True and a batch size that the number of workers divides"
            )
        self._means.split = True
        self._last, self._means.weight = size, share.weight(self._world_size)

    def all(self, backwards: int) -> None:
        """The end of a loop that began after so many backwards."""
        if self._means.backwards == backwards:
            raise UsageError(
                "--data-parallel has split the batches of this loop over the workers, but nothing was trained with them: where a "
                "model is tested, say model.eval() before the loop or torch.no_grad() around it, which leaves batches whole"
            )
        self._forget()


class _SplitLoop:
    """A loader's iterator whose batches are shares."""

    def __init__(
        self,
        iterator: Iterator[Any],
        batches: SharedBatches,
        fetched: _Fetched,
        backwards: int,
        times: StepTimes,
    ) -> None:
        self._times = times
        self._since: float | None = None  # when the script was last here
        self._iterator, self._batches, self._fetched = iterator, batches, fetched
        self._shares = batches.shares
        self._begun = backwards
        self._given = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __len__(self) -> int:
        return len(self._batches)

    def __next__(self) -> Any:
        begin = time.perf_counter()
        if self._since is not None:
            self._times.batches += 1
            self._times.seconds += begin - self._since
        try:
            batch = next(self._iterator)
        except StopIteration:
            if self._given:
                self._fetched.all(self._begun)
            raise
        self._since = time.perf_counter()
        if self._given:  # the first one of a loop is drawn, and workers begin
            self._times.input += self._since - begin
            self._times.seconds += self._since - begin
        self._given += 1
        self._fetched.one(self._shares.popleft())
        return batch


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [each for group in optimizer.param_groups for each in group["params"]]


def _where(trace: TracebackType | None) -> str:
    """The script's line that led to an error."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    lines = [frame.lineno for frame in traceback.extract_tb(trace) if frame.filename == script]
    return f" ({os.path.basename(str(script))}, line {lines[-1]})" if lines else ""


def activate(asked: str) -> None:
    """Called once torch is imported, where SWITCHML_DATA_PARALLEL is set; nothing happens but in one of several ranks."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if "LOCAL_RANK" not in os.environ or "RANK" not in os.environ or world_size < 2:
        return
    del os.environ["SWITCHML_DATA_PARALLEL"]  # children are no ranks
    # As one process would, afresh in each run and yet alike on all ranks; a script's own seeds go over it.
    seed = zlib.crc32(f"{os.environ.get('TORCHELASTIC_RUN_ID')} {os.environ.get('MASTER_PORT')}".encode())
    random.seed(seed)
    np.random.seed(seed)
    UneditedRun(
        int(os.environ["RANK"]),
        world_size,
        every_rank=asked == EVERY_RANK,
        folder=os.environ.get("SWITCHML_STEPS", ""),
    ).install()
