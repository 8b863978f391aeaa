"""A script that knows nothing of distributed training, on several workers: `switchml run --data-parallel`."""
