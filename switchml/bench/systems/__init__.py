"""The systems under test, one module each, all behind `System`."""
