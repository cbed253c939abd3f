"""The bundled weights side by side on whole images: measures them and writes a page.

    python benchmarks/bundled_weights.py                        # all weights, then the page
    python benchmarks/bundled_weights.py --weights fbcnn_s_x1   # one of them, then the page
    python benchmarks/bundled_weights.py --page-only

The scores of each image go to ``docs/results/bundled/NAME.csv`` at once, so an interrupted run is
resumed, and each of the weights can have a process of its own. ``RESULTS.md`` shows what there is.
The figures of promptcir_s_x1 are those of its own page; they are not measured again.

All is float32, by the engine of ``basicsr restore``: with the quality of the file and its block
grid, but held to the coefficients of the file only where the page says so.
"""

import argparse
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

import cir_model  # noqa: F401  registers the metrics
from cir_arch import load_network
from cir_data.codecs.jpeg import JPEG
from cir_data.datasets.sample_fields import to_tensor
from cir_data.images.compression import Subsampling
from cir_data.images.drawn_pages import FIRST_OF_TRAINING, drawn_page
from cir_data.images.geometry import Pixels
from cir_data.images.jpeg_coefficients import read_coefficients
from cir_host.files import write_text_whole
from cir_model.measuring.protocol import METRICS, store_at
from cir_model.measuring.provenance import MUST_MATCH, facts_of_run, read_provenance
from cir_model.measuring.record import Measurement, mean_of
from cir_model.measuring.store import Store
from cir_model.measuring.validation import scores_of
from cir_model.restoring.consistency import project
from cir_model.restoring.inference import Restorer
from cir_model.restoring.pictures import restore_channels
from cir_model.restoring.settings import InferenceOptions
from cir_weights import path_of

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/results/bundled"
PROMPTCIR = ROOT / "docs/results/promptcir_s_x1/promptcir_s_x1.csv"
SHOWN = {"psnr": ("PSNR", 2), "ssim": ("SSIM", 4), "psnrb": ("PSNR-B", 2)}
"""Metrics, with their names and decimals in the tables."""
QUALITIES = (10, 15, 20, 30, 40, 50, 60, 75, 85, 90, 95)
HELD = (75, 90, 95)
"""Qualities at which the result is also measured after it was held to the file."""
SHIFT = (3, 5)
"""Rows and columns that are cut off."""
SETS = {"LIVE1": 29, "Classic5": 5, "Set5": 5, "Set14": 14}
"""Images of each set."""
CASES_SET, EVERY = "LIVE1, every fourth image", 4
PAGES_SET, PAGES, PAGE_SIZE = "drawn pages", 8, (384, 512)
FIRST_PAGE = FIRST_OF_TRAINING - 7_000_000
"""Seed of the first drawn page; the training's seeds are larger than all of these."""
ITSELF_A_JPEG = {"Set5": ("woman", 60), "Set14": ("zebra", 75)}
"""Images that were JPEGs themselves, and the quality from which their figures mean little."""


@dataclass(frozen=True)
class Input:
    """What the engine gets."""

    pixels: Pixels
    truth: Pixels
    quality: int | None = None
    """Of the file; None: the network predicts it."""
    file: bytes | None = None
    """The JPEG file, if the result is also held to it."""
    is_file: bool = True
    """Whether the blocks are known to begin at the corner; else they are found from the pixels."""
    grid: bool = True
    """Whether the engine puts the blocks at the corner at all."""


Case = Callable[[Pixels], Input]
"""Makes the input from an original, (H, W) or (H, W, 3)."""


def jpeg(quality: int, subsampling: Subsampling = "4:2:0") -> Case:
    def make(image: Pixels) -> Input:
        data = JPEG(subsampling).encode(image, quality)
        pixels = JPEG().decode(data, image.shape[:2])
        return Input(pixels, image, quality, data if quality in HELD else None)

    return make


def twice(first: int, last: int, shift: tuple[int, int]) -> Case:
    def make(image: Pixels) -> Input:
        rows, columns = shift
        earlier = np.ascontiguousarray(JPEG().compress(image, first)[rows:, columns:])
        return Input(JPEG().compress(earlier, last), image[rows:, columns:], last)

    return make


def cut(quality: int, grid: bool) -> Case:
    """As a PNG of a JPEG without its first rows and columns."""

    def make(image: Pixels) -> Input:
        rows, columns = SHIFT
        pixels = JPEG().compress(image, quality)[rows:, columns:]
        return Input(pixels, image[rows:, columns:], is_file=False, grid=grid)

    return make


def webp_40(image: Pixels) -> Input:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", quality=40)
    with Image.open(buffer) as decoded:
        return Input(np.array(decoded.convert("RGB")), image, is_file=False)


def grey_q40(image: Pixels) -> Input:
    return jpeg(40)(np.array(Image.fromarray(image).convert("L")))


def clean(image: Pixels) -> Input:
    return Input(image, image, is_file=False)


ONCE = {f"q{quality}": jpeg(quality) for quality in QUALITIES}
CASES: Mapping[str, Case] = {
    "q20, then q75": twice(20, 75, (0, 0)),
    "q20 shifted, then q75": twice(20, 75, SHIFT),
    "q75, then q20": twice(75, 20, (0, 0)),
    "q75 shifted, then q20": twice(75, 20, SHIFT),
    "WebP 40": webp_40,
    "4:4:4, q40": jpeg(40, "4:4:4"),
    "grey, q40": grey_q40,
    "clean": clean,
    **{
        f"q{quality}{what}": make
        for quality in (15, 40, 90)
        for what, make in (
            ("", jpeg(quality)),
            (" cut, grid found", cut(quality, True)),
            (" cut, grid: none", cut(quality, False)),
        )
    },
}
PAGE_CASES = {f"q{quality}": jpeg(quality) for quality in (40, 90)}
FEW = {name: ONCE[name] for name in ("q10", "q20", "q30", "q40", "q90")}
"""Of the weights that are slow."""

PLAN: Mapping[str, Mapping[str, Mapping[str, Case]]] = {
    "fbcnn_xs_x1": {**dict.fromkeys(SETS, ONCE), CASES_SET: CASES, PAGES_SET: PAGE_CASES},
    "fbcnn_s_x1": {
        "LIVE1": FEW,
        "Classic5": FEW,
        CASES_SET: CASES,
        PAGES_SET: PAGE_CASES,
    },
}
"""What is measured, the most important first: weights, sets, cases."""


def originals(test_set: str, data: Path) -> Iterator[tuple[str, Pixels]]:
    """Yield the names and pixels of a set."""
    if test_set == PAGES_SET:
        for seed in range(FIRST_PAGE, FIRST_PAGE + PAGES):
            yield str(seed), drawn_page(seed, PAGE_SIZE)
        return
    every = EVERY if test_set == CASES_SET else 1
    folder = data / test_set.partition(",")[0]
    for path in sorted(folder.iterdir())[::every]:
        with Image.open(path) as image:
            yield path.stem, np.array(image.convert("L" if test_set == "Classic5" else "RGB"))


def tensor(pixels: Pixels) -> Tensor:
    """Return pixels as (1, C, H, W) in [0, 1]."""
    return to_tensor(np.ascontiguousarray(pixels))[None] / 255


def eight_bit_bgr(image: Tensor) -> Pixels:
    """Return the first image, (H, W, BGR) or (H, W), as the metrics take it."""
    pixels = (image[0] * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels[..., ::-1]


def scores(test_set: str, image: str, case: str, output: Tensor, made: Input) -> Measurement:
    """Return the scores of an output and of its input."""
    tensors = {"input": tensor(made.pixels), "output": output, "gt": tensor(made.truth)}
    images = {name: eight_bit_bgr(image) for name, image in tensors.items()}
    found = scores_of(images, {name: METRICS[name] for name in SHOWN})
    if case == "clean":  # the input is the original, so only the output has a meaning
        found = {metric: {"output": kinds["output"]} for metric, kinds in found.items()}
    height, width = made.truth.shape[:2]
    return Measurement(test_set, image, found, made_by={"input": case}, height=height, width=width)


def measured(
    restorers: Mapping[bool, Restorer], test_set: str, image: str, case: str, made: Input
) -> Iterator[Measurement]:
    """Yield the scores of an image; a second time for the result that was held to the file.

    Args:
        restorers: The engine with and without the search for the block grid.
        test_set: Name of the set.
        image: Name of the image.
        case: Name of the case.
        made: The input of the case.
    """
    known: dict[str, object] = {"block_offset": (0, 0)} if made.is_file else {}
    if made.quality is not None:
        known["quality"] = 1 - made.quality / 100
    output = restore_channels(restorers[made.grid], tensor(made.pixels), **known)
    if made.file is not None:
        held = project(output, read_coefficients(made.file))
        yield scores(test_set, image, f"{case} held", held, made)
    yield scores(test_set, image, case, output, made)  # last, since it marks the image as done


def measure(name: str, data: Path) -> None:
    """Measure what the store of these weights lacks."""
    store = store_at(FOLDER / f"{name}.csv")
    network = load_network(name)
    restorers = {
        True: Restorer([network], InferenceOptions()),
        False: Restorer([network], InferenceOptions(grid="none")),
    }
    store.begin(msgspec.to_builtins(facts_of_run(path_of(name), restorers[True])), MUST_MATCH)
    done = {(r.data_set, r.image, r.made_by["input"]) for r in store.read()}
    for test_set, cases in PLAN[name].items():
        images = list(originals(test_set, data))
        wanted = [(case, *image) for case in cases for image in images]
        left = [each for each in wanted if (test_set, each[1], each[0]) not in done]
        for case, image, pixels in tqdm(left, desc=f"{name}, {test_set}", disable=None):
            for record in measured(restorers, test_set, image, case, cases[case](pixels)):
                store.append(record)
    store.tidy()


class Results:
    """All measurements, by weights, set and case."""

    def __init__(self) -> None:
        stores = {name: store_at(FOLDER / f"{name}.csv") for name in PLAN}
        self.stores = {name: store for name, store in stores.items() if store.path.exists()}
        paths: dict[str, Store] = {**self.stores, "promptcir_s_x1": store_at(PROMPTCIR)}
        self.names = list(paths)
        self.records = {name: store.read() for name, store in paths.items()}

    def of(self, name: str, test_set: str, case: str) -> list[Measurement]:
        """Return the records of a row, if all images of the set were measured."""
        found = [
            record
            for record in self.records[name]
            if (record.data_set, record.made_by["input"]) == (test_set, case)
        ]
        sizes = {**SETS, CASES_SET: -(-SETS["LIVE1"] // EVERY), PAGES_SET: PAGES}
        if len(found) != sizes[test_set]:
            return []
        unfit, first = ITSELF_A_JPEG.get(test_set, ("", 101))
        fine = {f"q{quality}" for quality in QUALITIES if quality >= first}
        left_out = unfit if case.removesuffix(" held") in fine else ""
        return [record for record in found if record.image != left_out]


def formatted(records: Sequence[Measurement], kind: str) -> str:
    """Return the means of all metrics; ``gain`` is the output's less the input's."""

    def mean(metric: str) -> float:
        if kind != "gain":
            return mean_of(records, metric, kind)
        return mean_of(records, metric, "output") - mean_of(records, metric, "input")

    sign = "+" if kind == "gain" else ""
    return " / ".join(f"{mean(metric):{sign}.{digits}f}" for metric, (_, digits) in SHOWN.items())


def table(results: Results, test_set: str, cases: Iterable[str], kind: str = "gain") -> str:
    """Return a table of a row for each case and a column for each of the weights.

    Rows and columns without figures are left out.
    """
    rows = {
        case: {name: results.of(name, test_set, case) for name in results.names} for case in cases
    }
    names = [name for name in results.names if any(row[name] for row in rows.values())]
    if not names:
        return "Not measured yet."
    before = ["input"] if kind == "gain" else []
    lines = [
        f"| | {' | '.join([*before, *names])} |",
        "|---" * (1 + len(before) + len(names)) + "|",
    ]
    for case, row in rows.items():
        some = next((records for records in row.values() if records), None)
        if some:
            cells = [formatted(row[name], kind) if row[name] else "–" for name in names]
            shown = [formatted(some, "input")] if before else []
            lines.append(f"| {case} | {' | '.join([*shown, *cells])} |")
    return "\n".join(lines)


def page(results: Results) -> Iterator[str]:
    """Yield the parts of the page."""
    yield "# The bundled weights side by side"
    for store in results.stores.values():
        facts = read_provenance(store)
        yield (
            f"`{facts.weights}`: {facts.network}, {facts.parameters:,} parameters,"
            f" {facts.precision}, whole images; {facts.codec}, torch {facts.torch}; every figure is"
            f" in [{store.path.name}]({store.path.name})."
        )
    yield (
        "`promptcir_s_x1`: as far as [its own page](../promptcir_s_x1/RESULTS.md) has figures of"
        " all images. `python benchmarks/bundled_weights.py` measured the others and wrote this"
        " page."
    )
    yield (
        f"{' / '.join(name for name, _ in SHOWN.values())}: of the input, then gains over it; 8-bit"
        " images, all channels, mean over the images. JPEG by Pillow, 4:2:0 unless it says"
        " otherwise, with the quality of the file and its block grid, as `basicsr restore` passes"
        " them on."
    )
    for test_set, count in SETS.items():
        yield f"## {test_set}, {count} images"
        held = [f"q{quality} held" for quality in HELD]
        yield table(results, test_set, [*ONCE, *held])
        if test_set in ITSELF_A_JPEG:
            unfit, first = ITSELF_A_JPEG[test_set]
            yield (
                f"`{unfit}` was a JPEG before it came into the set; it is left out from quality"
                f" {first} on."
            )
        if test_set == "Set14":
            yield (
                "Grey images are three equal channels. `coastguard` and `foreman`, which lose at 90"
                " and 95 too, seem to have been compressed before as well; they are not left out."
            )
    yield "“Held”: held to the DCT coefficients of the file, as `basicsr restore` does by default."
    yield f"## Other inputs: {CASES_SET}"
    yield table(results, CASES_SET, [case for case in CASES if case != "clean"])
    rows, columns = SHIFT
    yield (
        f"“Shifted”: {rows} rows and {columns} columns cut off between two compressions. “Cut”: as"
        " many cut off after the compression, as in a PNG of a part; the network predicts the"
        " quality, and the block grid is found from the pixels, or left alone with `grid: none`."
    )
    yield "## Clean pictures"
    yield table(results, CASES_SET, ["clean"], "output")
    yield (
        "The originals themselves, restored and compared with themselves; `basicsr restore` copies"
        " lossless files unless `--force` is given."
    )
    yield f"## {PAGES} drawn pages of text and shapes"
    yield table(results, PAGES_SET, [*PAGE_CASES, "q90 held"])
    yield "`cir_data.images.drawn_pages` draws them, with seeds that the training did not draw."


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", nargs="+", choices=PLAN, default=list(PLAN))
    parser.add_argument("--data", type=Path, default=Path("datasets"))
    parser.add_argument("--page-only", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.page_only:
        for name in options.weights:
            measure(name, options.data)
    write_text_whole(FOLDER / "RESULTS.md", "\n\n".join(page(Results())) + "\n")


if __name__ == "__main__":
    main()
