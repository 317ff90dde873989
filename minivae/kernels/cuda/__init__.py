"""The cupy backend: the book's kernels in CUDA, and a step recorded as one graph. Read README.md first."""
