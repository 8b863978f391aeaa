"""The same for gloo, which torch takes on the CPU."""

import sys

from ddp_nccl import main

if __name__ == "__main__":
    main(sys.argv[1], backend="gloo")
