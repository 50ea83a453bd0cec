r"""Sampling from an energy: Markov chains whose states come to be distributed as :math:`p(x) \propto e^{-E(x)/T}`.

* :func:`langevin_dynamics`: downhill and noise; right in the limit of small steps.
* :func:`mala`, :func:`hmc`: corrected by an accept step, and right for every step size.
* :func:`annealed_langevin_dynamics`: through a sequence of noise levels, from noise to data.
* :class:`ReplayBuffer`: chains that go on where they stopped, for training by persistent chains.
* :func:`autocorrelation`, :func:`effective_sample_size`, :func:`r_hat`, :func:`acceptance`,
  :func:`largest_stable_step`: is it working?

The convention of all: :math:`x' = x - \frac{\epsilon}{2}\nabla E(x) + \sqrt{\epsilon T}\,\xi` with ``step_size`` = ε.
"""

from .buffer import ReplayBuffer
from .chains import Chains, ChainsDivergedError
from .diagnostics import acceptance, autocorrelation, effective_sample_size, largest_stable_step, r_hat
from .dynamics import TemperatureWarning, annealed_langevin_dynamics, implied_temperature, langevin_dynamics
from .metropolis import hmc, log_proposal, mala

__all__ = [
    "Chains",
    "ChainsDivergedError",
    "ReplayBuffer",
    "TemperatureWarning",
    "acceptance",
    "annealed_langevin_dynamics",
    "autocorrelation",
    "effective_sample_size",
    "hmc",
    "implied_temperature",
    "langevin_dynamics",
    "largest_stable_step",
    "log_proposal",
    "mala",
    "r_hat",
]
