"""Tensors on a GPU: sums and averages are quantized there, so that only words for the switch cross PCIe.

    triton_kernels.py      Triton: exponent and scaled int32 in one pass over a gradient, and the way back
    side_stream.py         a side stream: its events, pinned memory, and gates that let it wait for the host
    staged.py              one tensor's way to the switch and back, in chunks
    reductions.py          many tensors' ways, and their failures
    device_collectives.py  a process group's collectives

`switchml_hook` uses it for gradients on a GPU, beside NCCL, and the process group for whatever it is given there. It has
been tested without a GPU only: the kernels under Triton's interpreter and the rest over a stand-in. It has been neither
run nor measured on one.
"""
