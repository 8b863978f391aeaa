"""Packets as bytes: frames around them, files of them, and what they say."""
