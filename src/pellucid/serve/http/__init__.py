"""What every request meets before and after its API: bounds, keys, errors, streams, the server under it."""
