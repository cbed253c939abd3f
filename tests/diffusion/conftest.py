"""Shared by the tests of diffusion models."""

import socket

import pytest
from diffusion_tools import write_tiny


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Fail whatever would reach for the network."""

    def refuse(*_):
        raise AssertionError("something reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory):
    """The files of the tiny model, which no test changes."""
    return write_tiny(tmp_path_factory.mktemp("tiny"))
