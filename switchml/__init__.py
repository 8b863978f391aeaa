"""In-network gradient aggregation that anyone can run.

Importing this package loads nothing heavy: `import torch` imports it through the backend entry point.
"""

import os

__version__ = "0.1.0"

if not os.path.isdir(__path__[0] + "/worker"):
    # Python was started in the root of a checkout, where this folder hides the installed package: take the rooms from there.
    import pkgutil

    __path__ = pkgutil.extend_path(__path__, __name__)
