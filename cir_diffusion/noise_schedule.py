"""How much noise a diffusion model expects at each time step."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class NoiseSchedule:
    """Noise whose standard deviation grows linearly, as in Stable Diffusion ("scaled linear").

    Example:
        >>> from cir_diffusion.noise_schedule import NoiseSchedule
        >>> round(NoiseSchedule(0.00085, 0.012, 1000).signal(499), 7)
        0.2776694
    """

    first: float
    """Variance that the first step adds."""
    last: float
    """Variance that the last step adds."""
    steps: int

    def signal(self, step: int) -> float:
        """Return the share of the signal in the variance after a step, from 0: alpha bar."""
        variances = torch.linspace(self.first**0.5, self.last**0.5, self.steps) ** 2
        return float((1 - variances).cumprod(0)[step])
