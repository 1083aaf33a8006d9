"""Hostile input, made by rule and by chance, for every reader. See test_fuzz_readers.py for the claim."""
