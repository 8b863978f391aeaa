"""A P4 program of one's own to begin with."""
