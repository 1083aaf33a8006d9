"""The APIs: one file a dialect, each over the same ``Ask``."""
