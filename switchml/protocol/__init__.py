"""Wire format, slot arithmetic and numerics: what workers and switches must agree on. No I/O."""
