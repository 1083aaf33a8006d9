"""Training: data to batches, batches to a loss, a loss to better weights; and stopping and going on as if nothing had
happened.
"""
