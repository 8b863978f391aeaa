"""Sums of CUDA tensors: quantized on the GPU, so that only words for the switch cross PCIe.

    kernels.py     Triton: exponent and scaled int32 in one pass over a gradient, and the way back
    reference.py   the same arithmetic in torch, for any device
    stream.py      the side stream, events and pinned memory; a stand-in without a GPU
    staged.py      one tensor's way to the switch and back, in chunks

`switchml_hook` uses it for gradients on a GPU, beside NCCL. It has been tested without a GPU only: the kernels under
Triton's interpreter and the staging over the stand-in. It has been neither run nor measured on one.
"""
