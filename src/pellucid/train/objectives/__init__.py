"""Objectives: what a batch costs, forwards and backwards."""
