"""`import torch` finds the backend, cheaply, and cannot be broken by it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def python(program: str, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", *flags, "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_import_torch_registers_the_backend_and_loads_nothing_heavy() -> None:
    ended = python(
        "import sys, torch, torch.distributed as dist\n"
        "assert 'switchml' in dist.Backend.backend_list, dist.Backend.backend_list\n"
        "assert dist.Backend.backend_capability['switchml'] == ['cpu']\n"
        "assert dist.Backend.default_device_backend_map['cpu'] == 'gloo'\n"
        "heavy = {'numba', 'grpc', 'google.protobuf', 'switchml.worker', 'torch._dynamo',\n"
        "         'switchml.torch_backend.process_group'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""


@pytest.mark.parametrize("first", ["torch", "switchml.torch_backend"])
def test_an_explicit_import_registers_where_autoload_is_off(first: str) -> None:
    ended = python(
        f"import {first}\n"
        "import torch.distributed as dist\n"
        "import switchml.torch_backend\n"
        "assert 'switchml' in dist.Backend.backend_list\n"
        "from switchml.torch_backend import Options, SwitchProcessGroup, routing_table\n"
        "assert Options().transport == 'auto' and 'allreduce' in routing_table()\n",
        TORCH_DEVICE_BACKEND_AUTOLOAD="0",
    )
    assert ended.returncode == 0, ended.stderr


def test_without_autoload_or_import_the_backend_is_unknown() -> None:
    ended = python(
        "import torch.distributed as dist\nassert 'switchml' not in dist.Backend.backend_list\n",
        TORCH_DEVICE_BACKEND_AUTOLOAD="0",
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("flags", [(), ("-W", "error::RuntimeWarning")])
def test_register_never_raises(flags: tuple[str, ...]) -> None:
    ended = python(
        "import torch.distributed as dist\n"
        "def broken(*_, **__): raise ImportError('from another world')\n"
        "dist.Backend.register_backend = broken\n"
        "from switchml.torch_backend.autoload import register\n"
        "register()\n",
        *flags,
        TORCH_DEVICE_BACKEND_AUTOLOAD="0",
    )
    assert ended.returncode == 0, ended.stderr
    assert ("from another world" in ended.stderr) == (not flags)


def test_register_twice_registers_once() -> None:
    ended = python(
        "import torch.distributed as dist\n"
        "from switchml.torch_backend.autoload import register\n"
        "before = dist.Backend._plugins['SWITCHML']\n"
        "register(); register()\n"
        "assert dist.Backend._plugins['SWITCHML'] is before\n"
        "assert dist.Backend.backend_list.count('switchml') == 1\n"
    )
    assert ended.returncode == 0, ended.stderr


def test_import_torch_does_what_the_environment_asks_for() -> None:
    """In a process of its own: the programs of other tests find torch imported."""
    ended = python(
        "import os, torch, torch.distributed as dist\n"
        "assert dist.Backend('gloo') == 'switchml'\n"
        "assert 'SWITCHML_DATA_PARALLEL' not in os.environ  # it is active\n"
        "assert hasattr(torch.optim.Optimizer.add_param_group, '__wrapped__')\n",
        SWITCHML_BACKEND_FOR="gloo",
        SWITCHML_DATA_PARALLEL="1",
        RANK="0",
        LOCAL_RANK="0",
        WORLD_SIZE="2",
    )
    assert ended.returncode == 0, ended.stderr


def test_unknown_attribute() -> None:
    import switchml.torch_backend

    with pytest.raises(AttributeError, match="no_such_thing"):
        switchml.torch_backend.no_such_thing  # noqa: B018
