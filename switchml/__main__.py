"""`python -m switchml`, where the command is not on PATH."""

from __future__ import annotations

import sys

from switchml.cli import main

if __name__ == "__main__":
    sys.argv[0] = "switchml"
    main()
