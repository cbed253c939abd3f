"""Codecs: pixels to bytes and back. A codec per file, all subclasses of ``base.Codec``."""
