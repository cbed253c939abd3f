"""Inference on images and files: tiles, self-ensembles, memory, metadata."""
