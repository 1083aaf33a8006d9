"""The terminal: where output goes, how numbers, tables and progress look."""
