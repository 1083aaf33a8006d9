"""File formats: one file a kind, each giving names and arrays that are read when they are asked for."""
