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
from .restoring.files import restore_file as restore_file
from .restoring.images import default_restorer as default_restorer
from .restoring.images import restore_image as restore_image
from .restoring.options import RestoreOptions as RestoreOptions
from .training import (
    CaVEModel as CaVEModel,
)
from .training import (
    CIRGANModel as CIRGANModel,
)
from .training import (
    CIRModel as CIRModel,
)
