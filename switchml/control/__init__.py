"""Control plane: who takes part in which job, and what the switch is told about it.

`target` is what a controller programs, `ranges` and `jobs` decide (no I/O), `controller` joins both, `server` and `client`
carry them over gRPC, `embedded` starts a switch of one's own. Nothing here imports grpc until a server or client is imported.
"""
