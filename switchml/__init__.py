"""In-network gradient aggregation that anyone can run.

Importing this package loads nothing heavy: `import torch` imports it through the backend entry point.
"""

__version__ = "0.1.0"
