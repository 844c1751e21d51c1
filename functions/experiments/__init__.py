"""Lists of runs, and their tables, curves and plots."""
