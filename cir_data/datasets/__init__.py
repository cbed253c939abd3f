"""Data sets for BasicSR. Importing this package registers all of them."""

from cir_data.datasets.codec_restoration_dataset import CodecRestorationDataset
from cir_data.datasets.jpeg_folder_dataset import JPEGFolderDataset
from cir_data.datasets.jpeg_restoration_dataset import JPEGRestorationDataset
from cir_data.datasets.paired_jpeg_dataset import PairedJPEGDataset
from cir_data.datasets.sample_fields import DoubleFacts, PairSample, Sample, UCSRSample
from cir_data.datasets.ucsr_dataset import UCSRDataset

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
