"""Measuring networks: validation, the protocol of the results page, published figures."""
