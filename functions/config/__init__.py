"""Configs: what a run is told, read from files and flags and checked. Torch-free."""
