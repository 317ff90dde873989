"""The numba backend: from matrix products up to one compiled interpreter for whole programs. Read README.md first."""
