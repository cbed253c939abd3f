"""Passing pictures and files through networks: tiles, ensembles, memory, metadata."""
