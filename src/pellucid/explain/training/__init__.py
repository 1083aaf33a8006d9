"""A training run explained: what it has written so far, as answers and as a page."""
