"""What is asked, behind every API, and who answers it: one thread a model."""
