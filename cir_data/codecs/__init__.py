"""Codecs: pixels to bytes and back. All are subclasses of ``codec.Codec``."""
