"""Measuring networks: validation, the protocol of ``basicsr results``, published figures."""
