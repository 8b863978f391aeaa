"""Saved experiments: a sweep over the benchmarks, told in a TOML file, with a figure at its end."""
