"""Checks of options against the networks and data sets of a run, before it starts."""

from collections.abc import Mapping
from typing import Any

from basicsr.utils.registry import DATASET_REGISTRY
from torch import nn

from cir_arch.running import facts_of
from cir_data.images.jpeglib_files import require_jpeglib
from cir_host.errors import OptionsError, UserError
from cir_host.ownership import is_known, is_ours
from cir_model.metrics import perceptual
from cir_model.restoring.inference import Restorer


def check_precision(network: nn.Module, precision: str, key: str) -> None:
    """Refuse a precision that a network does not support.

    Args:
        network: The network.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        key: The option that asks for it, for the message.

    Raises:
        OptionsError: The network states that it does not support the precision.
    """
    facts = facts_of(network)
    if facts is not None and precision not in facts.precisions:
        raise OptionsError(
            f"{key}: {type(network).__name__} supports"
            f" {' and '.join(sorted(facts.precisions))}, not {precision}"
        )


def check_consistency(restorer: Restorer) -> None:
    """Refuse ``val.consistency`` where nothing can be held to a file.

    Args:
        restorer: The networks.

    Raises:
        OptionsError: The networks change the size, or ``jpeglib`` is not installed.
    """
    if restorer.scale != 1:
        raise OptionsError(
            f"val.consistency: needs networks that keep the size; this one has scale"
            f" {restorer.scale}"
        )
    try:
        require_jpeglib()
    except UserError as error:
        raise OptionsError(f"val.consistency: {error}") from error


def check_metrics(metrics: Mapping[str, Any]) -> None:
    """Refuse metrics that cannot be computed, which a validation would find late.

    Args:
        metrics: ``val.metrics``.

    Raises:
        OptionsError: A metric needs a package or a network that is missing.
    """
    for name, section in metrics.items():
        for metric in perceptual.METRICS:
            reason = perceptual.lacking(metric)
            if section["type"] == f"calculate_{metric}" and reason is not None:
                raise OptionsError(f"val.metrics.{name}: {reason}")


def check_codec_input(network: nn.Module, key: str) -> None:
    """Refuse a network that does not take the codec as an input.

    Args:
        network: The network.
        key: The option that asks for it, for the message.

    Raises:
        OptionsError: The network does not take the codec.
    """
    facts = facts_of(network)
    if facts is None or "codec" not in facts.extra_inputs:
        raise OptionsError(f"{key}: {type(network).__name__} does not take the codec; UCIP does")


def check_coefficients(network: nn.Module, data_set: Mapping[str, Any]) -> None:
    """Refuse a training data set that gives another kind of input than a network takes.

    Args:
        network: The network.
        data_set: The section ``datasets.train``.

    Raises:
        OptionsError: Only one of the two has to do with coefficients.
    """
    facts = facts_of(network)
    takes = facts is not None and facts.input_kind == "coefficients"
    if takes != bool(data_set.get("coefficients")):
        name = type(network).__name__
        raise OptionsError(
            f"datasets.train.coefficients: {name} takes the DCT coefficients of JPEGs; set it to"
            " true, of a JPEGRestorationDataset"
            if takes
            else f"datasets.train.coefficients: {name} takes images; remove the key"
        )


def check_images(network: nn.Module, opt: Mapping[str, Any]) -> None:
    """Refuse a training data set whose images a network does not take.

    Networks and data sets of other packages are not checked; their facts are unknown.

    Args:
        network: The network.
        opt: All options.

    Raises:
        OptionsError: The network changes sizes by another factor than ``scale``, or takes another
            number of channels, or no crops of ``gt_size``.
    """
    facts = facts_of(network)
    if facts is None or facts.input_kind == "coefficients":
        return
    name, scale, data_set = type(network).__name__, opt.get("scale", 1), opt["datasets"]["train"]
    if facts.scale != scale:
        raise OptionsError(
            f"scale: it is {scale}, but network_g is {name} of scale {facts.scale}; correct one"
        )
    multiple = 1 if facts.pads_itself else facts.size_multiple * scale
    stages = opt["train"].get("progressive") or []
    for where, section in (
        ("datasets.train", data_set),
        *((f"train.progressive[{i}]", stage) for i, stage in enumerate(stages)),
    ):
        size = section.get("gt_size")
        if size is not None and size % multiple:
            raise OptionsError(
                f"{where}.gt_size: must be a multiple of {multiple}, since {name} does not pad"
                f" images; it is {size}"
            )
    cls = DATASET_REGISTRY.get(data_set["type"])
    grey = ("y", "gray") if is_ours(cls) else ("y",)
    channels = 1 if data_set.get("color") in grey else 3
    if is_known(cls) and facts.in_channels != channels:
        raise OptionsError(
            f"datasets.train.color: images of {channels} channel{'s' * (channels > 1)}, but"
            f" network_g is {name} for {facts.in_channels}; correct one"
        )
