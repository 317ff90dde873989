"""Data: where they come from (files, datasets), whether they are data (checks), and how they reach a step (batches)."""
