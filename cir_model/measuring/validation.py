"""Validation and test: measure input and output of every image, in all processes together."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.archs import build_network
from basicsr.metrics import calculate_metric
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger, imwrite, tensor2img
from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

import cir_host
from cir_arch import load_network
from cir_arch.basicsr_networks import facts_of
from cir_data.images.jpeg_coefficients import read_coefficients, require_library
from cir_data.images.jpeg_planes import JpegPlanes, read_planes
from cir_data.messages import first_few
from cir_host.distributed import connected
from cir_host.errors import OptionsError, UndefinedMetric, UserError
from cir_host.file_names import folded, printable
from cir_host.option_keys import known_to_us
from cir_host.stopping import stopping
from cir_host.typed_options import typed
from cir_model.measuring.record import Measurement
from cir_model.measuring.validation_files import DataSetResult, markdown_table, write_results
from cir_model.metrics import perceptual
from cir_model.options import AveragedNetwork, ValOptions
from cir_model.restoring.block_grid import Blocks, blocks_of
from cir_model.restoring.consistency import project
from cir_model.restoring.inference import Restorer
from cir_model.restoring.pictures import restore_jpeg

_NO_FILE = "is no JPEG, or its EXIF turns it"


class MeasuringModel(SRModel):
    """A model whose validations and tests report the gain of the network over its input.

    They write ``metrics.csv``, ``metrics.json`` and ``metrics.md`` into ``results/NAME`` (test) or
    ``experiments/NAME`` (training, where the CSV file keeps all validations).
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        self.results: dict[str, DataSetResult] = {}
        self.extra_inputs: dict[str, Any] = {}
        """Further inputs of the network, such as the codec."""
        self.block_offset: Blocks = "search"
        self.jpeg: JpegPlanes
        self._measured = 0
        self._unwritten: list[str] = []
        """Why results files could not be written, so far in this test."""
        self._not_held: list[str] = []
        """Images of this validation that are not held to a file, and why."""
        self.best_mean: float | None = None
        """The best mean of ``val.save_best`` over all data sets so far."""
        self.validation_options = self.val_options(opt)
        super().__init__(opt)
        further = self.validation_options.averaged_with
        self.further_networks = [self._further_network(entry) for entry in further]
        self.restorer = self._restorer()

    @staticmethod
    def val_options(opt: Mapping[str, Any]) -> ValOptions:
        """Return the checked section ``val``; without one, no images are saved."""
        return typed(opt.get("val") or {"save_img": False}, ValOptions, "val")

    def _further_network(self, entry: str | AveragedNetwork) -> nn.Module:
        if self.is_train:
            raise OptionsError(
                "val.averaged_with: only a test averages networks; remove it for training"
            )
        if isinstance(entry, str):
            entry = AveragedNetwork(path=entry, network=self.opt["network_g"])
        if entry.network is None:
            return load_network(entry.path).to(self.device)
        network: nn.Module = self.model_to_device(build_network(entry.network))
        strict = self.opt["path"].get("strict_load_g", True)
        self.load_network(network, entry.path, strict, None)
        bare: nn.Module = self.get_bare_model(network)
        return bare.eval()

    def _restorer(self) -> Restorer:
        """Return a new restorer for each validation, since it records which tiles it used."""
        network = getattr(self, "net_g_ema", None) or self.get_bare_model(self.net_g)
        if self.validation_options.tell_codec:
            check_codec_input(network, "val.tell_codec")
        options = self.validation_options
        networks = [network, *self.further_networks]
        try:
            restorer = Restorer(networks, options, weights=options.averaging_weights)
        except UserError as error:
            raise OptionsError(f"val.{error}") from error
        if options.consistency:
            check_consistency(restorer)
        return restorer

    def test(self) -> None:
        """Restore ``self.lq`` by the EMA weights if there are any.

        A network that takes coefficients gets those of ``self.jpeg``, the file of ``lq``.
        """
        with evaluating(self.restorer.networks[0]):
            if self.restorer.input_kind == "pixels":
                self.output = self.restorer(self.lq, self.block_offset, **self.extra_inputs)
            else:
                grey = self.lq.shape[1] == 1
                output = restore_jpeg(self.restorer, self.jpeg, grey, **self.extra_inputs)
                self.output = output.to(self.device)

    def _hold(self, sample: Mapping[str, Any]) -> None:
        """Hold ``self.output`` to the JPEG file of a sample of one image.

        Raises:
            UserError: The data set does not give the files.
        """
        (path,) = sample["lq_path"]
        data = _file_of(sample, "val.consistency", "remove the key for other data sets")
        try:
            if not data:
                raise UserError(_NO_FILE)
            coefficients = read_coefficients(data)
            self.output = project(self.output, coefficients, self.validation_options.cell)
        except UserError as error:
            self._not_held.append(f"{path}: {error}")

    def dist_validation(
        self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool
    ) -> None:
        """Measure one data set; the processes share the images."""
        self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(
        self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool
    ) -> None:
        """Measure input and output of one data set, write the results and save the images.

        The processes share the images, and the first one reports. If training is to stop, the
        validation ends without a result.
        """
        data_set = dataloader.dataset
        name = data_set.opt["name"]
        metrics = self.validation_options.metrics or {}
        self.restorer = self._restorer()
        self._not_held = []
        result = DataSetResult(name, current_iter, {})
        names, unwritten = _UniqueNames(), list[str]()
        progress = tqdm(
            _shares(dataloader),
            desc=name,
            unit="image",
            disable=self.opt["rank"] != 0 or not self.validation_options.pbar,
        )
        for number, sample in enumerate(progress):
            record, images = None, {}
            if sample is not None:
                images = self._restore(sample)
                if "gt" in images:
                    record = Measurement(
                        name,
                        sample["lq_path"][0],
                        self._scores(metrics, images),
                        made_by=_made_by(sample),
                        iteration=current_iter,
                    )
            turn = _from_all((sample and sample["lq_path"][0], record, stopping()))
            if self.is_train and any(stop for *_, stop in turn):
                get_root_logger().warning(f"Validation {name} is interrupted by SIGTERM.")
                return
            taken = [path and names.take(path) for path, *_ in turn]
            result.records += [record for _, record, _ in turn if record is not None]
            if sample is not None and save_img:
                image_name = taken[self.opt["rank"]]
                try:
                    imwrite(images["output"], str(self._image_path(name, image_name, current_iter)))
                except UserError as error:
                    unwritten.append(str(error))
            if tb_logger and images and number < self.opt["logger"].get("tb_images", 4):
                tag = f"{name}/{taken[0]}"
                tb_logger.add_image(
                    printable(tag), _side_by_side(images), _step(current_iter), dataformats="HWC"
                )
        not_held = [line for lines in _from_all(self._not_held) for line in lines]
        if not_held:
            get_root_logger().warning(
                f"{len(not_held)} images are not held to their files: {first_few(not_held)}"
            )
        if metrics and result.records and self.opt["rank"] == 0:
            result.protocol.update(self._protocol(data_set, len(not_held)))
            try:
                self._report(result, list(metrics), tb_logger)
            except OSError as error:
                unwritten.append(f"{self._results_folder()}/metrics.*: {error.strerror or error}")
            except UserError as error:
                unwritten.append(str(error))
            self._keep_best(current_iter)
        self._report_unwritten([line for lines in _from_all(unwritten) for line in lines])

    def _report_unwritten(self, lines: list[str]) -> None:
        """Log which files could not be written; after its last data set, a test fails.

        Raises:
            UserError: The test is complete, and files could not be written.
        """
        self._measured += 1
        self._unwritten += lines
        if lines:
            get_root_logger().error(f"{len(lines)} files could not be written: {first_few(lines)}")
        if not self.is_train and self._unwritten and self._measured == len(self.opt["datasets"]):
            raise UserError(
                f"{len(self._unwritten)} results files could not be written:"
                f" {first_few(self._unwritten)}"
            )

    def _restore(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Restore a sample of one image; returns 8-bit images, (H, W, BGR) or (H, W)."""
        self.feed_data(sample)
        self.block_offset = blocks_of(sample)
        if self.validation_options.tell_codec:
            self.extra_inputs = {"codec": int(codec_of(sample, "val.tell_codec"))}
        if self.restorer.input_kind == "coefficients":
            self.jpeg = _planes_of(sample, self.restorer.names[0])
        self.test()
        if self.validation_options.consistency:
            self._hold(sample)
        images = {"output": tensor2img([self.output]), "input": tensor2img([self.lq])}
        if "gt" in sample:
            images["gt"] = tensor2img([self.gt])
        for attribute in {"lq", "gt", "output", "jpeg"} & vars(self).keys():
            delattr(self, attribute)
        return images

    def _keep_best(self, current_iter: int | str) -> None:
        """Save the weights if their mean over all data sets is the best so far."""
        metric = self.validation_options.save_best
        sets = [s["name"] for key, s in self.opt["datasets"].items() if key.startswith("val")]
        now = [r for r in self.results.values() if r.iteration == current_iter]
        if not self.is_train or metric is None or {r.data_set for r in now} != set(sets):
            return
        mean = sum(result.mean(metric, "output") for result in now) / len(now)
        sign = -1 if (self.validation_options.metrics or {})[metric].get("better") == "lower" else 1
        if not (self.best_mean is None or sign * mean > sign * self.best_mean):
            return
        self.best_mean = mean
        get_root_logger().info(f"Best {metric} so far: {mean:.4f}, saved as net_g_best.pth.")
        self.save_networks("best")

    def save_networks(self, number: int | str) -> None:
        """Save the network, and its EMA weights if there are any, as ``net_g_NUMBER.pth``."""
        nets = {"params": self.net_g}
        if hasattr(self, "net_g_ema"):
            nets["params_ema"] = self.net_g_ema
        self.save_network(list(nets.values()), "net_g", number, list(nets))

    def _scores(
        self, metrics: Mapping[str, Any], images: Mapping[str, Any]
    ) -> dict[str, dict[str, float]]:
        """Return ``scores[metric][kind]`` of one image; subclasses add further scores."""
        return scores_of(images, metrics)

    def _protocol(self, data_set: Any, not_held: int) -> dict[str, Any]:
        """Return what a reader needs to compare these scores with others.

        Args:
            data_set: The data set.
            not_held: How many images ``val.consistency`` could not hold to a file.
        """
        colour = {"rgb": "RGB", "y": "MATLAB's Y, 8 bits", "gray": "grey"}
        by_metric = [
            f"{metric} ({'MATLAB Y' if options.get('test_y_channel') else 'all channels'},"
            f" border {options.get('crop_border', 0)})"
            for metric, options in (self.opt["val"].get("metrics") or {}).items()
            if "crop_border" in options
        ]
        protocol = {
            "colour": colour.get(str(data_set.opt.get("color", "rgb"))),
            "codec": getattr(data_set, "codec", "as stored"),
            "measured on": "8-bit images, mean over images: " + ", ".join(by_metric),
            **self.restorer.describe(),
        }
        if self.validation_options.consistency:
            cell = f"cells of {self.validation_options.cell} steps"
            without = f", {not_held} images without" if not_held else ""
            protocol["held to the JPEG files"] = cell + without
        return {key: value for key, value in protocol.items() if value}

    def _report(self, result: DataSetResult, metrics: list[str], tb_logger: Any) -> None:
        self.results[result.data_set] = result
        self._initialize_best_metric_results(result.data_set)
        self.metric_results = {m: result.mean(m, "output") for m in metrics}
        for metric, value in self.metric_results.items():
            self._update_best_metric_result(result.data_set, metric, value, result.iteration)
        logger = get_root_logger()
        logger.info(f"Validation {result.data_set}\n{markdown_table([result], metrics)}")
        if tb_logger:
            for metric, kinds in result.means(metrics).items():
                for kind, value in kinds.items():
                    suffix = "" if kind == "output" else f"_{kind}"
                    tag = f"metrics/{result.data_set}/{metric}{suffix}"
                    tb_logger.add_scalar(tag, value, result.iteration)
        folder = self._results_folder()
        write_results(folder, self._run_facts(), self.results.values(), metrics)

    def _results_folder(self) -> Path:
        return Path(self.opt["path"]["experiments_root" if self.is_train else "results_root"])

    def _run_facts(self) -> dict[str, Any]:
        device = torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU"
        return {
            "name": self.opt["name"],
            "network": dict(self.opt["network_g"]),
            "checkpoint": self.opt["path"].get("pretrain_network_g"),
            "basicsr-cir": cir_host.__version__,
            "torch": torch.__version__,
            "device": device,
        }

    def _image_path(self, data_set: str, image: str, current_iter: int | str) -> Path:
        folder = Path(self.opt["path"]["visualization"]) / data_set
        if self.is_train:
            return folder / image / f"{image}_{current_iter}.png"
        return folder / f"{image}_{self.opt['val'].get('suffix') or self.opt['name']}.png"


def scores_of(images: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Measure an input and an output against the ground truth.

    Args:
        images: ``input``, ``output`` and ``gt``: 8-bit images, (H, W, BGR), or (H, W) if grey.
        metrics: For each name, the type of a registered metric and its arguments.

    Returns:
        ``scores[metric][kind]``. The input has no score if the network changes the size. Where a
        metric is undefined, the score is missing and the reason is logged.

    Example:
        >>> import numpy as np
        >>> from cir_model.measuring.validation import scores_of
        >>> truth = np.zeros((16, 16, 3), np.uint8)
        >>> images = {"input": truth + 2, "output": truth + 1, "gt": truth}
        >>> scores = scores_of(images, {"psnr": {"type": "calculate_psnr", "crop_border": 0}})
        >>> {kind: round(psnr, 2) for kind, psnr in scores["psnr"].items()}
        {'input': 42.11, 'output': 48.13, 'gain': 6.02}
    """
    scores: dict[str, dict[str, float]] = {}
    for metric, options in metrics.items():
        row = scores[metric] = {}
        for kind in ("input", "output"):
            if images[kind].shape == images["gt"].shape:
                try:
                    data = {"img": images[kind], "img2": images["gt"]}
                    row[kind] = float(calculate_metric(data, options))
                except UndefinedMetric as error:
                    get_root_logger().warning(f"{metric}: {error}; left out of the mean.")
        if len(row) == 2:
            sign = -1 if options.get("better", "higher") == "lower" else 1
            row["gain"] = sign * (row["output"] - row["input"])
    return scores


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Set a network to evaluation mode, and back to its earlier mode afterwards."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


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
        require_library()
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
    channels = 1 if data_set.get("color") == "y" else 3
    known = known_to_us(DATASET_REGISTRY.get(data_set["type"]))
    if known and facts.in_channels != channels:
        raise OptionsError(
            f"datasets.train.color: images of {channels} channel{'s' * (channels > 1)}, but"
            f" network_g is {name} for {facts.in_channels}; correct one"
        )


def codec_of(sample: Mapping[str, Any], key: str) -> Tensor:
    """Return the codecs of a batch, int64 (B,).

    Args:
        sample: A batch of samples.
        key: The option that needs them, for the message.

    Raises:
        UserError: The samples do not name their codec.
    """
    if "codec_index" not in sample:
        raise UserError(
            f"{key}: the samples of this data set have no codec_index; UCSRDataset's do"
        )
    codecs: Tensor = sample["codec_index"]
    return codecs


def _planes_of(sample: Mapping[str, Any], network: str) -> JpegPlanes:
    """Return the coefficients of the JPEG file of a sample of one image.

    Raises:
        UserError: The data set does not give the file, or it has no readable coefficients.
    """
    (path,) = sample["lq_path"]
    data = _file_of(sample, network, "use one of these")
    try:
        if not data:
            raise UserError(_NO_FILE)
        return read_planes(data)
    except UserError as error:
        raise UserError(f"{path}: {network} restores JPEG files; {error}") from error


def _file_of(sample: Mapping[str, Any], who: str, advice: str) -> bytes:
    """Return the JPEG file of a sample of one image, empty if it is no JPEG.

    Raises:
        UserError: The data set gives no files; the text says who needs them.
    """
    if "jpeg" not in sample:
        raise UserError(
            f"{who}: {sample['lq_path'][0]} comes without its JPEG file; JPEGRestorationDataset"
            " with library: pillow gives it, and JPEGFolderDataset and PairedJPEGDataset with"
            f" color: rgb or gray; {advice}"
        )
    data: bytes = sample["jpeg"][0]
    return data


def _shares(dataloader: Any) -> Iterator[Any]:
    """Yield this process's samples, then None if other processes have one more."""
    if not connected():
        yield from dataloader
        return
    data_set, rank, processes = dataloader.dataset, dist.get_rank(), dist.get_world_size()
    mine = Subset(data_set, range(rank, len(data_set), processes))
    yield from DataLoader(mine, batch_size=1, collate_fn=dataloader.collate_fn)
    if rank >= len(data_set) % processes > 0:
        yield None


def _from_all(mine: Any) -> list[Any]:
    """Return the objects of all processes, by rank."""
    if not connected():
        return [mine]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found


def _side_by_side(images: Mapping[str, Any]) -> Any:
    """Join input, output and ground truth side by side, in RGB; skip other sizes."""
    shown = [images[k] for k in ("input", "output", "gt") if k in images]
    same = [image for image in shown if image.shape == images["output"].shape]
    strip = np.concatenate([np.atleast_3d(image) for image in same], axis=1)
    return strip[..., ::-1] if strip.shape[2] == 3 else np.repeat(strip, 3, axis=2)


def _step(current_iter: int | str) -> int | None:
    return current_iter if isinstance(current_iter, int) else None


def _made_by(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the input of a collated sample of one image was made, as plain values."""
    made_by: dict[str, Any] = {}
    for key in ("quality", "subsampling", "codec"):
        if key in sample:
            value = sample[key][0]
            made_by[key] = value.item() if isinstance(value, Tensor) else value
    return made_by


class _UniqueNames:
    """Unique names for saved images: the stem, or a longer name if two images share a stem.

    They also differ on file systems that ignore case or Unicode normalisation.
    """

    def __init__(self) -> None:
        self._taken = {"", ".", ".."}  # names of folders

    def take(self, path: str) -> str:
        name = next(name for name in self._candidates(path) if folded(name) not in self._taken)
        self._taken.add(folded(name))
        return name

    @staticmethod
    def _candidates(path: str) -> Iterator[str]:
        parts = [part.strip("/\\") for part in Path(path).parts]
        yield Path(path).stem
        for depth in range(1, len(parts) + 1):
            yield "_".join(parts[-depth:]).replace(".", "_")
        for number in count(2):
            yield f"{Path(path).stem}_{number}"
