"""One rank of a program that `switchml.bench.script_ranks` started: it ends when its starter does.

`python -P -m switchml.bench.script_rank SCRIPT ARGUMENT ...`, with a pipe for standard input that the starter holds open.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading
from pathlib import Path


def _end_with_starter() -> None:
    while os.read(0, 1 << 10):
        pass
    os._exit(1)


def main() -> None:
    """Run the script as if Python had been given it."""
    threading.Thread(target=_end_with_starter, name="starter", daemon=True).start()
    del sys.argv[0]
    sys.path.insert(0, str(Path(sys.argv[0]).absolute().parent))
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
