"""Measuring a model: perplexity, distance to another model, multiple choice."""
