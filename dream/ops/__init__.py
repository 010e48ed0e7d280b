"""Implementations of `dream_scan`: the reference, which is the definition, and whatever is faster."""
