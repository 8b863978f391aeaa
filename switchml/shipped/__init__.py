"""Files that come with the package: examples and Mininet networks."""
