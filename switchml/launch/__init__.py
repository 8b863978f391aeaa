"""`switchml run`: a switch, torch's own launcher over it, and an account of what went through."""
