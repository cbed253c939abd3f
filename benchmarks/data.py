"""Training samples per second and core, by store, against the usual loaders and the bare codec.

    python benchmarks/data.py datasets/train                  # stores go to a temporary folder
    python benchmarks/data.py datasets/train --memory 100000  # also memory over so many samples
    python benchmarks/data.py --names 300000                  # only: what a worker copies of names
    python benchmarks/data.py datasets/train --recipe fbcnn_s_x1.yml   # only: crops of a recipe

Crops of 128x128 in colour, quality 10 to 70. Every loader runs in this process, on one thread, in
turns with the others, and is charged the processor's time; the figure is the median of the turns.
Files are in the page cache. The loaders with workers are timed by the clock.

- Ours: ``JPEGRestorationDataset`` from a folder of PNGs (as Pillow writes them), an LMDB of
  PNGs, an LMDB of raw pixels, and with the options ``cache`` and ``uint8``.
- (a) BasicSR's ``PairedImageDataset`` on two copies of the same LMDB of PNGs, ``gt`` and ``lq``.
- (b) The habit of published loaders: read the PNG of that folder, compress it whole by OpenCV,
  crop.
- (c) The bare codec: Pillow compresses and decodes the region that an exact crop needs.
"""

import argparse
import io
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cir_data  # noqa: F401 (makes BasicSR importable)

# isort: split
import cv2
import numpy as np
import PIL
import torch
import yaml
from basicsr.data import build_dataset
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cir_cli.options_files import find
from cir_data.codecs import jpeg
from cir_data.images.decoding import decode
from cir_data.images.geometry import Window
from cir_data.prepare.keys import keys_of
from cir_data.prepare.one_image import Settings
from cir_data.prepare.preparation import Preparation
from cir_data.storage.dataroots import open_images
from cir_data.storage.folder_source import FolderSource
from cir_data.storage.image_source import StoredImage
from cir_data.storage.stored_images import StoredImages
from cir_host.sampler import DataPlan, SampleIndex, Stage, TrainingBatches

CROP = 128
LOW, HIGH = 10, 70


def make_stores(images: Path, folder: Path) -> dict[str, Path]:
    (stored,) = open_images("images", str(images))
    (folder / "folder").mkdir()
    for image in stored:
        pixels = decode(image.read(), image.path)
        Image.fromarray(pixels).save(folder / "folder" / f"{Path(image.name).stem}.png")
    settings = {"png.lmdb": Settings(), "raw.lmdb": Settings(store="raw")}
    for name, chosen in settings.items():
        Preparation(stored, keys_of(stored), folder / name, chosen).run(workers=2)
    for name in ("gt.lmdb", "lq.lmdb"):  # py-lmdb opens each only once in a process
        shutil.copytree(folder / "png.lmdb", folder / name)
    return {name: folder / name for name in ("folder", *settings)}


def ours(root: Path, **options: bool) -> Dataset:
    return build_dataset(
        {
            "name": root.name,
            "type": "JPEGRestorationDataset",
            "phase": "train",
            "scale": 1,
            "manual_seed": 0,
            "dataroot_gt": str(root),
            "quality": {"range": [LOW, HIGH]},
            "gt_size": CROP,
            "use_hflip": True,
            "use_rot": True,
            **options,
        }
    )


def of_recipe(file: str, images: Path) -> Dataset:
    """Return the training set of an options file with other images."""
    section = yaml.safe_load(find(file).read_text(encoding="utf-8"))["datasets"]["train"]
    section |= {"phase": "train", "scale": 1, "manual_seed": 0}
    return build_dataset(section | {"dataroot_gt": str(images), "meta_info_file": None})


def paired(folder: Path) -> Dataset:
    return build_dataset(
        {
            "name": "paired",
            "type": "PairedImageDataset",
            "phase": "train",
            "scale": 1,
            "dataroot_gt": str(folder / "gt.lmdb"),
            "dataroot_lq": str(folder / "lq.lmdb"),
            "io_backend": {"type": "lmdb"},
            "gt_size": CROP,
            "use_hflip": True,
            "use_rot": True,
        }
    )


class Habit(Dataset):
    """(b): OpenCV throughout, the whole image compressed for each crop."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(str(path) for path in folder.rglob("*.png"))
        self.rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        gt = cv2.imread(self.paths[index])
        quality = int(self.rng.integers(LOW, HIGH + 1))
        lq = cv2.imdecode(cv2.imencode(".jpg", gt, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)
        window = Window.random(self.rng, gt.shape[:2], CROP)
        return {"gt": self._tensor(window.cut(gt)), "lq": self._tensor(window.cut(lq))}

    def _tensor(self, image: np.ndarray) -> Tensor:
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))).float().div_(255)


def bare_codec(folder: Path) -> Callable[[int], object]:
    """(c): regions cut beforehand, at qualities drawn beforehand."""
    rng = np.random.default_rng(0)
    regions = []
    for path in sorted(folder.rglob("*.png")):
        image = np.asarray(Image.open(path).convert("RGB"))
        size = image.shape[:2]
        region = jpeg.exact_region(Window.random(rng, size, CROP), size, "4:2:0")
        quality = int(rng.integers(LOW, HIGH + 1))
        regions.append((np.ascontiguousarray(region.cut(image)), quality))

    def encode_and_decode(index: int) -> object:
        region, quality = regions[index]
        buffer = io.BytesIO()
        Image.fromarray(region).save(buffer, "JPEG", quality=quality)
        return np.asarray(Image.open(buffer))

    return encode_and_decode


def samples_per_second(
    loaders: dict[str, Callable[[int], object]], images: int, turns: int
) -> dict[str, float]:
    """Median over turns; each turn draws a sample of every image."""
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for turn in range(turns + 1):
        for name, load in loaders.items():
            start = time.process_time()
            for position in range(images):
                load(SampleIndex(position, turn, position))
            if turn:  # the first is warm-up
                rates[name].append(images / (time.process_time() - start))
    return {name: statistics.median(values) for name, values in rates.items()}


def batches_per_worker(root: Path, turns: int) -> dict[int, float]:
    """Median samples per second of a DataLoader of batches of 16, by number of workers."""
    data_set = ours(root)
    count = 6 * len(data_set) // 16
    plan = DataPlan(len(data_set), 6 * len(data_set), (Stage(count, 16),))
    rates: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for turn in range(turns):
        for workers, values in rates.items():
            batches = TrainingBatches(replace(plan, start_sample=turn * plan.epoch_size), count)
            loader = iter(DataLoader(data_set, batch_sampler=batches, num_workers=workers))
            next(loader)  # by then the workers run
            start = time.perf_counter()
            values.append(16 * sum(1 for _ in loader) / (time.perf_counter() - start))
    return {workers: statistics.median(values) for workers, values in rates.items()}


def memory(root: Path, samples: int) -> str:
    """Resident memory of this process along the way; the store's mapped pages stand apart."""
    data_set = ours(root)
    lines = ["| samples | anonymous, MB | mapped files, MB |", "|---|---|---|"]
    for position in range(samples + 1):
        if position % (samples // 5) == 0:
            status = Path("/proc/self/status").read_text(encoding="utf-8")
            sizes = dict(line.split(":") for line in status.splitlines())
            anonymous, mapped = (int(sizes[key].split()[0]) / 1e3 for key in ("RssAnon", "RssFile"))
            lines.append(f"| {position:,} | {anonymous:.1f} | {mapped:.1f} |")
        data_set[SampleIndex(position % len(data_set), position // len(data_set), position)]
    return "\n".join(lines)


def copied_by_worker(images: Sequence[StoredImage]) -> float:
    """Megabytes that a forked worker comes to own by reading the path of every image."""

    def private() -> int:
        lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))

    def read_all() -> None:
        before = private()
        sender.send(all(image.path for image in images) and private() - before)

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=read_all)
    worker.start()
    kilobytes: int = receiver.recv()
    worker.join()
    return kilobytes / 1e3


def memory_of_names(count: int) -> str:
    source = FolderSource(Path())
    images = [StoredImage(source, f"sub/{i:07d}_s{i % 40:03d}.png") for i in range(count)]
    return "\n".join(
        [
            f"| {count:,} images | a worker copies, MB |\n|---|---|",
            f"| list of objects | {copied_by_worker(images):.1f} |",
            f"| StoredImages | {copied_by_worker(StoredImages(images)):.1f} |",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "images", type=Path, nargs="?", help="folder of lossless images, 480x480 or so"
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--memory", type=int, default=0, metavar="SAMPLES")
    parser.add_argument("--names", type=int, metavar="IMAGES")
    parser.add_argument(
        "--recipe", metavar="FILE", help="an options file of JPEGRestorationDataset"
    )
    options = parser.parse_args()
    if options.names:
        print(memory_of_names(options.names))
        return
    if options.images is None:
        parser.error("give a folder of images")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if options.recipe:
        data_set = of_recipe(options.recipe, options.images)
        loader = {options.recipe: data_set.__getitem__}
        rates = samples_per_second(loader, len(data_set), options.turns)
        print(f"{options.recipe}: {rates[options.recipe]:.0f} samples/s on one core")
        return
    with tempfile.TemporaryDirectory() as folder:
        stores = make_stores(options.images, Path(folder))
        data_sets = {
            "folder of PNG": ours(stores["folder"]),
            "LMDB of PNG": ours(stores["png.lmdb"]),
            "LMDB of raw pixels": ours(stores["raw.lmdb"]),
            "folder of PNG, cache": ours(stores["folder"], cache=True),
            "folder of PNG, cache, uint8": ours(stores["folder"], cache=True, uint8=True),
            "(a) PairedImageDataset, LMDB of PNG": paired(Path(folder)),
            "(b) whole image, OpenCV, crop": Habit(stores["folder"]),
        }
        loaders = {name: data_set.__getitem__ for name, data_set in data_sets.items()}
        loaders["(c) bare codec"] = bare_codec(stores["folder"])
        images = len(data_sets["folder of PNG"])
        rates = samples_per_second(loaders, images, options.turns)
        print(f"{images} images, torch {torch.__version__}, OpenCV {cv2.__version__}")
        print(f"{jpeg.codec_name()}, Pillow {PIL.__version__}\n")
        print("| | samples/s, one core | of (b) | of (c) |\n|---|---|---|---|")
        for name, rate in rates.items():
            of_b = rate / rates["(b) whole image, OpenCV, crop"]
            print(f"| {name} | {rate:.0f} | {of_b:.2f} | {rate / rates['(c) bare codec']:.2f} |")
        print("\n| DataLoader, batches of 16 | 0 workers | 1 | 2 |\n|---|---|---|---|")
        for name in ("png.lmdb", "raw.lmdb"):
            by_workers = batches_per_worker(stores[name], options.turns)
            cells = " | ".join(f"{rate:.0f}" for rate in by_workers.values())
            print(f"| {name}, samples/s | {cells} |")
        sizes = {n: sum(f.stat().st_size for f in p.rglob("*.*")) for n, p in stores.items()}
        print(
            "\nOn disk:", ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in sizes.items())
        )
        if options.memory:
            print("\n" + memory(stores["raw.lmdb"], options.memory))


if __name__ == "__main__":
    main()
