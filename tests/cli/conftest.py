"""Shared by the tests of the command."""

import pytest
from basicsr.archs import build_network

from cir_cli import restore


@pytest.fixture
def identity(monkeypatch):
    """A network that changes nothing in place of every checkpoint: fast, and each bit is known."""
    network = build_network({"type": "Identity"})
    monkeypatch.setattr(restore, "load_network", lambda path: network)
    return network
