"""Blocks that several networks share, each written once.

Inside the networks a feature map is (B, H, W, C): linear layers, layer norms and the cutting of
windows need no transposition then, and convolutions see the same memory as a channels-last
(B, C, H, W) tensor. Images at both ends of a network are (B, C, H, W).
"""
