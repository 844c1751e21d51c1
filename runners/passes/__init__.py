"""Closed forms over a set, without a loop over steps."""
