"""Exhaustive search of the shipped state machines: every order in which packets can arrive, be lost or come twice."""
