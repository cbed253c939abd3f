from .metrics import (
    calculate_dists as calculate_dists,
)
from .metrics import (
    calculate_lpips as calculate_lpips,
)
from .metrics import (
    calculate_psnrb as calculate_psnrb,
)
from .metrics import (
    calculate_quality_error as calculate_quality_error,
)
from .restoring.in_memory import default_restorer as default_restorer
from .restoring.in_memory import restore_image as restore_image
from .restoring.on_disk import restore_file as restore_file
from .restoring.settings import RestoreOptions as RestoreOptions
from .training import (
    CaVEModel as CaVEModel,
)
from .training import (
    CIRGANModel as CIRGANModel,
)
from .training import (
    CIRModel as CIRModel,
)
from .training import (
    CODiffModel as CODiffModel,
)
from .training import (
    DiffIRGANModel as DiffIRGANModel,
)
from .training import (
    DiffIRModel as DiffIRModel,
)
