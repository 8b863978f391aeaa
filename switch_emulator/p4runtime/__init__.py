"""The P4Runtime server of the emulator: gRPC towards controllers, `runtime.Device` towards the pipeline.

It needs the package `p4runtime`, the extra of that name, so it is imported only where it is used:

    from switchml.switch_emulator.p4runtime.p4runtime_server import serve
"""
