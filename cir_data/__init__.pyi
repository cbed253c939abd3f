from .datasets import (
    CodecRestorationDataset as CodecRestorationDataset,
)
from .datasets import (
    DoubleFacts as DoubleFacts,
)
from .datasets import (
    JPEGFolderDataset as JPEGFolderDataset,
)
from .datasets import (
    JPEGRestorationDataset as JPEGRestorationDataset,
)
from .datasets import (
    PairedJPEGDataset as PairedJPEGDataset,
)
from .datasets import (
    PairSample as PairSample,
)
from .datasets import (
    Sample as Sample,
)
from .datasets import (
    UCSRDataset as UCSRDataset,
)
from .datasets import (
    UCSRSample as UCSRSample,
)
