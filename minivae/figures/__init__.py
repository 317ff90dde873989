"""Pictures of what a model has learned: how a figure is laid out (layout.py), and the figures (plots.py)."""
