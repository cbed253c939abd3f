"""``CIRModel``: BasicSR's ``SRModel`` with AdamW, our loader, validation that shows the gain."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from basicsr.archs import build_network
from basicsr.metrics import calculate_metric
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger, imwrite, tensor2img
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn
from tqdm import tqdm

import cir_host
from cir_host.errors import OptionsError, UndefinedMetric, UserError
from cir_host.options import convert
from cir_host.registration import register
from cir_model.inference import InferenceOptions, Restorer
from cir_model.results import DataSetResult, ImageRecord, markdown_table, write_results

OPTIMIZERS = {
    name: getattr(torch.optim, name) for name in ("Adam", "AdamW", "SGD", "NAdam", "RAdam")
}


@register(MODEL_REGISTRY)
class CIRModel(SRModel):
    """Trains and tests one network ``net_g`` on compressed images.

    Beside BasicSR's options it reads those of :class:`InferenceOptions` from ``val``, and
    ``val.averaged_with``: further checkpoints of the network, whose outputs a test averages with
    those of ``path.pretrain_network_g``. Every validation measures the input beside the output and
    writes ``metrics.csv``, ``metrics.json`` and ``metrics.md`` into ``results/NAME`` (a test) or
    ``experiments/NAME`` (training, where the CSV file keeps all validations).
    """

    known_options: ClassVar = {
        "val": frozenset({*InferenceOptions.__struct_fields__, "averaged_with"})
    }

    def __init__(self, opt: dict[str, Any]) -> None:
        self.results: dict[str, DataSetResult] = {}
        val = opt.get("val") or {}
        given = {key: val[key] for key in InferenceOptions.__struct_fields__ if key in val}
        self.inference = convert(given, InferenceOptions, "val")
        super().__init__(opt)
        self.further_networks = [self._further_network(path) for path in _listed(val)]
        self.restorer = self._restorer()

    def _further_network(self, path: str) -> nn.Module:
        if self.is_train:
            raise OptionsError("val.averaged_with: in training one network alone is validated")
        network: nn.Module = self.model_to_device(build_network(self.opt["network_g"]))
        strict = self.opt["path"].get("strict_load_g", True)
        self.load_network(network, path, strict, None)
        bare: nn.Module = self.get_bare_model(network)
        return bare.eval()

    def _restorer(self) -> Restorer:
        """Make what validates; anew for each validation, as it says which tiles it used."""
        network = getattr(self, "net_g_ema", None) or self.get_bare_model(self.net_g)
        try:
            return Restorer([network, *self.further_networks], self.inference)
        except UserError as error:
            raise OptionsError(f"val.{error}") from error

    def get_optimizer(
        self, optim_type: str, params: Iterable[Tensor], lr: float, **kwargs: Any
    ) -> torch.optim.Optimizer:
        """Build one of torch's optimizers by its name."""
        if optim_type not in OPTIMIZERS:
            raise OptionsError(
                f"train.optim_g.type: {optim_type!r} is not one of {', '.join(OPTIMIZERS)}"
            )
        optimizer: torch.optim.Optimizer = OPTIMIZERS[optim_type](params, lr=lr, **kwargs)
        return optimizer

    def test(self) -> None:
        """Restore ``self.lq`` by the averaged weights where there are any."""
        network = self.restorer.networks[0]
        training = network.training
        network.eval()
        self.output = self.restorer(self.lq)
        network.train(training)

    def nondist_validation(
        self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool
    ) -> None:
        """Measure one data set, input beside output; log, store and, if asked, save the images."""
        data_set = dataloader.dataset
        name = data_set.opt["name"]
        metrics = (self.opt["val"].get("metrics") or {}) if self.opt.get("val") else {}
        self.restorer = self._restorer()
        result = DataSetResult(name, current_iter, {})
        names = _UniqueNames()
        progress = tqdm(
            dataloader, desc=name, unit="image", disable=not self.opt["val"].get("pbar", False)
        )
        for sample in progress:
            self.feed_data(sample)
            self.test()
            images = {"output": tensor2img([self.output]), "input": tensor2img([self.lq])}
            truth = tensor2img([self.gt]) if "gt" in sample else None
            source = sample["lq_path"][0]
            image_name = names.take(source)
            if truth is not None:
                result.records.append(
                    ImageRecord(source, _made_by(sample), self._scores(metrics, images, truth))
                )
            if save_img:
                imwrite(images["output"], str(self._image_path(name, image_name, current_iter)))
            for attribute in {"lq", "gt", "output"} & vars(self).keys():
                delattr(self, attribute)
        if metrics and result.records:
            result.protocol.update(self._protocol(data_set))
            self._report(result, list(metrics), tb_logger)

    def _scores(
        self, metrics: Mapping[str, Any], images: Mapping[str, Any], truth: Any
    ) -> dict[str, dict[str, float]]:
        """``scores[metric][kind]``; the input has no score where the network changes the size."""
        scores: dict[str, dict[str, float]] = {}
        for metric, options in metrics.items():
            row = scores[metric] = {}
            for kind in ("input", "output"):
                if images[kind].shape == truth.shape:
                    try:
                        data = {"img": images[kind], "img2": truth}
                        row[kind] = float(calculate_metric(data, options))
                    except UndefinedMetric as error:
                        get_root_logger().warning(f"{metric}: {error}; left out of the mean.")
            if len(row) == 2:
                sign = -1 if options.get("better", "higher") == "lower" else 1
                row["gain"] = sign * (row["output"] - row["input"])
        return scores

    def _protocol(self, data_set: Any) -> dict[str, Any]:
        """What a reader needs to know to compare a figure of this data set with another's."""
        colour = {"rgb": "RGB", "y": "MATLAB's Y, 8 bits", "gray": "grey"}
        by_metric = [
            f"{metric} ({'MATLAB Y' if options.get('test_y_channel') else 'all channels'},"
            f" border {options.get('crop_border', 0)})"
            for metric, options in (self.opt["val"].get("metrics") or {}).items()
        ]
        protocol = {
            "colour": colour.get(str(data_set.opt.get("color", "rgb"))),
            "codec": getattr(data_set, "codec", "as stored"),
            "measured on": "8-bit images, mean over images: " + ", ".join(by_metric),
            **self.restorer.describe(),
        }
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
        paths = self.opt["path"]
        folder = Path(paths["experiments_root"] if self.is_train else paths["results_root"])
        write_results(folder, self._run_facts(), self.results.values(), metrics)

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


def _listed(val: Mapping[str, Any]) -> list[str]:
    paths = val.get("averaged_with") or []
    if not isinstance(paths, list):
        raise OptionsError(f"val.averaged_with: expected a list of checkpoints; it is {paths!r}")
    return paths


def _made_by(sample: Mapping[str, Any]) -> dict[str, Any]:
    """How a collated sample of one image was made, as plain values."""
    made_by: dict[str, Any] = {}
    for key in ("quality", "subsampling", "codec"):
        if key in sample:
            value = sample[key][0]
            made_by[key] = value.item() if isinstance(value, Tensor) else value
    return made_by


class _UniqueNames:
    """Names for saved images: the stem, or a longer name where two images share their stem."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, path: str) -> str:
        parts = Path(path).parts
        candidates = [Path(path).stem, Path(path).name.replace(".", "_")]
        candidates += [
            "_".join(parts[-depth:]).replace(".", "_") for depth in range(2, len(parts) + 1)
        ]
        name = next(c for c in candidates if c not in self._taken)
        self._taken.add(name)
        return name
