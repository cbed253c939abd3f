"""Blocks that several networks share, each written once.

Inside the networks a feature map is (B, H, W, C), so that linear layers, layer norms and windows
need no transposition; for convolutions the same memory is a channels-last (B, C, H, W) tensor.
Input and output of a network are (B, C, H, W).
"""
