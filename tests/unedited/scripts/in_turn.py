"""Runs scripts of this folder one after the other in one process, so that torch is loaded once: FOLDER, then their names."""

import runpy
import sys
from pathlib import Path

folder, *names = sys.argv[1:]
for name in names:
    sys.argv = [name, f"{folder}/{name}.pt"]
    runpy.run_path(str(Path(__file__).with_name(f"{name}.py")), run_name="__main__")
