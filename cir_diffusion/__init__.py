"""Restoration by diffusion models, in one step: CODiff.

Needs the extra ``diffusion``. Importing the package does not import diffusers.
"""
