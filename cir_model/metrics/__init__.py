"""Metrics that BasicSR lacks, one per file."""
