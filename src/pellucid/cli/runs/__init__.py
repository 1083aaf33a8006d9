"""What commands do once their flags are read."""
