"""Data sets of compressed images for BasicSR. Importing this package registers all of them."""

import cir_host  # noqa: F401 (makes BasicSR importable)
from cir_data.codec_restoration_dataset import CodecRestorationDataset
from cir_data.jpeg_folder_dataset import JPEGFolderDataset
from cir_data.jpeg_restoration_dataset import JPEGRestorationDataset
from cir_data.paired_jpeg_dataset import PairedJPEGDataset
from cir_data.sample import DoubleFacts, PairSample, Sample, UCSRSample
from cir_data.ucsr_dataset import UCSRDataset

__all__ = [
    "CodecRestorationDataset",
    "DoubleFacts",
    "JPEGFolderDataset",
    "JPEGRestorationDataset",
    "PairSample",
    "PairedJPEGDataset",
    "Sample",
    "UCSRDataset",
    "UCSRSample",
]
