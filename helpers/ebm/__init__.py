r"""Training energies, and finding out what was learned.

* :class:`ContrastiveDivergence` with :class:`PersistentChains`, :class:`ShortRun` or :class:`DataChains`: maximum
  likelihood by samples; :func:`contrastive_divergence_loss` is its formula.
* :func:`denoising_score_matching_loss`, :func:`edm_score_matching_loss`, :func:`sliced_score_matching_loss`: training
  by the score, without samples.
* :class:`EnergyMatching`: transport far from the data, a Boltzmann density near them.
* :func:`log_partition_quadrature`, :func:`log_density_quadrature`, :func:`kl_quadrature` in two dimensions, and
  :func:`ais_log_z`, :func:`ais_log_z_reverse` in any number: log Z, and what follows from it.

Everywhere low energy is likely, :math:`p(x) \propto e^{-E(x)/T}`, and losses are minimised.
"""

from .contrastive import (
    ContrastiveDivergence,
    DataChains,
    LangevinSampler,
    Negatives,
    PersistentChains,
    ShortRun,
    contrastive_divergence_loss,
)
from .energy_matching import (
    EnergyMatching,
    pair_by_transport,
    transport_loss,
    transport_then_langevin,
    walk_temperature,
)
from .importance import AISEstimate, AISSettings, ais_log_z, ais_log_z_reverse
from .partition import QuadratureWarning, kl_quadrature, log_density_quadrature, log_partition_quadrature
from .score_matching import (
    conditional_score,
    denoising_score_matching_loss,
    edm_score_matching_loss,
    edm_weight,
    sliced_score_matching_loss,
)

__all__ = [
    "AISEstimate",
    "AISSettings",
    "ContrastiveDivergence",
    "DataChains",
    "EnergyMatching",
    "LangevinSampler",
    "Negatives",
    "PersistentChains",
    "QuadratureWarning",
    "ShortRun",
    "ais_log_z",
    "ais_log_z_reverse",
    "conditional_score",
    "contrastive_divergence_loss",
    "denoising_score_matching_loss",
    "edm_score_matching_loss",
    "edm_weight",
    "kl_quadrature",
    "log_density_quadrature",
    "log_partition_quadrature",
    "pair_by_transport",
    "sliced_score_matching_loss",
    "transport_loss",
    "transport_then_langevin",
    "walk_temperature",
]
