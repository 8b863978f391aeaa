"""The backend's name, apart from everything else: what registers the backend must not load it."""

BACKEND_NAME = "switchml"
"""Under which torch knows the backend: `init_process_group("switchml")`."""
