"""What produced the scores of ``basicsr results``: weights, codec, versions, device."""

import hashlib
from pathlib import Path

import msgspec
import torch

from cir_data.codecs.jpeg import codec_name
from cir_host.errors import UserError
from cir_host.file_names import printable
from cir_model.measuring.store import Store
from cir_model.restoring.inference import Restorer

MUST_MATCH = ("sha256", "codec")
"""Scores are comparable only if these are equal."""


class Provenance(msgspec.Struct, frozen=True):
    """The facts in the JSON file, common to all scores in the CSV file."""

    weights: str
    """The name of the file without its ending."""
    sha256: str
    """Of the weights."""
    network: str
    parameters: int
    codec: str
    torch: str
    device: str
    precision: str
    tile: int | str


def facts_of_run(weights: Path, restorer: Restorer) -> Provenance:
    """Return what is common to all scores of a run.

    Raises:
        OSError: The weights cannot be read.
    """
    network = restorer.networks[0]
    device = restorer.device.type
    threads = torch.get_num_threads()
    tile = restorer.options.tile or "whole images"
    kinds = {"cpu": f"{threads} thread{'s' * (threads > 1)} of a CPU"}
    return Provenance(
        weights=printable(weights.stem),
        sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        network=type(network).__name__,
        parameters=sum(p.numel() for p in network.parameters()),
        codec=codec_name(),
        torch=str(torch.__version__),
        device=kinds.get(device) or torch.cuda.get_device_name(restorer.device),
        precision=restorer.precision,
        tile=", ".join(map(str, tile)) if isinstance(tile, tuple) else tile,
    )


def read_provenance(store: Store) -> Provenance:
    """Return the facts of an earlier run.

    Raises:
        UserError: The JSON file is missing, or lacks a fact.
    """
    try:
        return msgspec.convert(store.facts, Provenance)
    except msgspec.ValidationError as error:
        raise UserError(f"{store.facts_path}: {error}") from error
