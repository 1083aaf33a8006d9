"""Executor 1, torch: the reference. It trains, explains, edits, and runs on CPU, CUDA and MPS by the same code."""
