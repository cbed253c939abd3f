"""Measuring a network by the protocol: which images are to be measured, and their scores."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from basicsr.data import build_dataset
from basicsr.utils import tensor2img
from tqdm import tqdm

from cir_data.messages import first_few
from cir_host.errors import UserError
from cir_host.file_names import printable
from cir_model.measuring import protocol
from cir_model.measuring.protocol import EvaluationSet, InputRecipe
from cir_model.measuring.provenance import MUST_MATCH, Provenance
from cir_model.measuring.record import Measurement
from cir_model.measuring.store import Store
from cir_model.measuring.validation import scores_of
from cir_model.metrics import perceptual
from cir_model.restoring.block_grid import blocks_of
from cir_model.restoring.inference import Restorer
from cir_model.restoring.pictures import restore_channels

_logger = logging.getLogger("basicsr")


@dataclass(frozen=True)
class PlannedImage:
    """One image to measure."""

    test_set: EvaluationSet
    recipe: InputRecipe
    data: Any
    """The data set that makes its input."""
    index: int

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells its measurement from all others."""
        return self.test_set.name, self.recipe.name, self.image

    @property
    def image(self) -> str:
        """The name of the image, as the CSV file holds it."""
        return printable(self.data.originals[self.index].stem)


def plan(data: Path, every: int) -> Iterator[PlannedImage]:
    """Yield the images to measure, the most important first.

    Args:
        data: The folder of the test sets; sets that it lacks are left out, with a warning if only
            some images are missing.
        every: Use every n-th image at the qualities that are not in ``MAIN_QUALITIES``.
    """
    present = [s for s in protocol.TEST_SETS if _is_complete(s, data)]
    once, further = protocol.JPEG_ONCE, protocol.FURTHER
    main = [once[quality] for quality in protocol.MAIN_QUALITIES]
    for recipe in (*main, *(r for r in once.values() if r not in main), *further):
        step = 1 if recipe in main else every
        for test_set in present:
            if recipe not in further or test_set is protocol.HELD_OUT:
                images = _data_set(test_set, recipe, data)
                yield from (
                    PlannedImage(test_set, recipe, images, i) for i in range(0, len(images), step)
                )


def _is_complete(test_set: EvaluationSet, data: Path) -> bool:
    if not (data / test_set.options["dataroot_gt"]).is_dir():
        return False
    try:
        _data_set(test_set, protocol.CLEAN, data)
    except UserError as error:
        _logger.warning(f"The test set {test_set.name} is left out: {error}")
        return False
    return True


def _data_set(test_set: EvaluationSet, recipe: InputRecipe, data: Path) -> Any:
    section = {"color": "rgb", **test_set.options, **(recipe.options or {"quality": 100})}
    section["dataroot_gt"] = str(data / section["dataroot_gt"])
    if "meta_info_file" in section:
        section["meta_info_file"] = str(protocol.LISTS / section["meta_info_file"])
    facts = {"name": test_set.name, "type": "JPEGRestorationDataset", "phase": "test"}
    return build_dataset({**facts, "scale": 1, "manual_seed": 0, **section})


def measure(
    restorer: Restorer, store: Store, planned: Sequence[PlannedImage], provenance: Provenance
) -> None:
    """Measure the images that the store lacks.

    Args:
        restorer: The network, in evaluation mode.
        store: Where the scores go; see :func:`cir_model.measuring.protocol.store_at`.
        planned: From :func:`plan`, all images or this process's share.
        provenance: What is common to all scores.

    Raises:
        UserError: The store has scores of other weights; or, once all other images are measured,
            some image cannot be read or restored.
    """
    store.begin(msgspec.to_builtins(provenance), MUST_MATCH)
    done = {(r.data_set, r.made_by.get("input"), r.image) for r in store.read()}
    metrics = {k: v for k, v in protocol.METRICS.items() if k not in perceptual.METRICS}
    metrics |= {k: protocol.METRICS[k] for k in perceptual.available()}
    left = [image for image in planned if image.key not in done]
    failed: dict[str, None] = {}
    for image in tqdm(left, unit="image", disable=None):
        try:
            store.append(_measured(restorer, image, metrics))
        except UserError as error:
            failed[str(error)] = None
    if failed:
        raise UserError(
            f"could not measure: {first_few(list(failed))}; all other scores are in"
            f" {store.path}, and the same command measures the rest"
        )


def _measured(restorer: Restorer, planned: PlannedImage, metrics: Mapping[str, Any]) -> Measurement:
    sample = planned.data[planned.index]
    clean = planned.recipe is protocol.CLEAN
    lq = sample["gt" if clean else "lq"]
    start = time.perf_counter()
    blocks = "search" if clean else blocks_of({k: [sample[k]] for k in ("codec", "block_offset")})
    output = restore_channels(restorer, lq[None], block_offset=blocks)[0]
    seconds = time.perf_counter() - start
    images = {"input": lq, "output": output, "gt": sample["gt"]}
    scores = scores_of({name: tensor2img([image]) for name, image in images.items()}, metrics)
    if clean:  # the input is the ground truth: its score and the gain mean nothing
        scores = {m: {k: v for k, v in s.items() if k == "output"} for m, s in scores.items()}
    height, width = lq.shape[-2:]
    return Measurement(
        planned.test_set.name,
        planned.image,
        scores,
        made_by={"input": planned.recipe.name},
        height=height,
        width=width,
        seconds=seconds,
    )
