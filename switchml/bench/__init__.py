"""`switchml bench`: collectives, kernels and switches measured, each next to what it is compared with."""
