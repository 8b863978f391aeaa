"""The kernels compile for a GPU, which takes Triton and none; Triton's interpreter accepts more than its compiler."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("torch", reason="torch is in the extra `torch`")
pytest.importorskip("triton", reason="Triton is in the extra `clients`: make test-clients")

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel

from switchml.torch_backend.cuda import triton_kernels as kernels

TENSORS = {
    "values": "*fp32", "words": "*i32", "exponents": "*i8", "agreed": "*i8", "sums": "*i32", "out": "*fp32",
    "count": "i32", "blocks": "i32", "workers": "fp32",
}  # fmt: skip
QUANTIZERS = [("_quantize", {"AGAIN": again, "BIG_ENDIAN": swap}) for again in (0, 1) for swap in (0, 1)]
KERNELS = [*QUANTIZERS, *[("_dequantize", {"AVERAGE": average}) for average in (0, 1)]]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="Triton interprets here")
@pytest.mark.parametrize(("name", "flags"), KERNELS)
@pytest.mark.parametrize("capability", [80, 90])
def test_it_compiles_to_wide_loads_and_stores(name: str, flags: dict[str, int], capability: int) -> None:
    """For sizes with a factor of 16, as buckets have; 16 bytes a thread and instruction."""
    kernel = getattr(kernels, name)
    constants = {"HEADROOM": 3, "ROWS": kernels._ROWS, "BLOCK": 256} | {k: bool(v) for k, v in flags.items()}
    signature = {argument: TENSORS.get(argument, "constexpr") for argument in kernel.arg_names}
    places = {argument: (place,) for place, argument in enumerate(kernel.arg_names)}
    source = ASTSource(
        kernel,
        signature,
        constexprs={places[argument]: value for argument, value in constants.items()},
        attrs={places[a]: [["tt.divisibility", 16]] for a, kind in signature.items() if kind[0] in "*i"},
    )
    made = compile_kernel(source, target=GPUTarget("cuda", capability, 32))
    assert made.asm["cubin"]
    assert "ld.global.v4" in made.asm["ptx"]
    assert "st.global.v4" in made.asm["ptx"]
