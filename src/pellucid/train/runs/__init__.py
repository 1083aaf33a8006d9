"""Runs: one optimization step after another in a folder, stopped and gone on with at will."""
