"""Executor 2: the model's forward as one readable C program, compiled for this machine, run without torch."""
