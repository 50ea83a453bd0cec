r"""One loop that trains every model: AdamW or Muon, exponential moving average, clipping, history, files.

The average of the weights (Polyak & Juditsky 1992; for diffusion Ho et al. 2020, appendix B) is

.. math:: \bar\theta \leftarrow a\,\bar\theta + (1 - a)\,\theta, \qquad a = 2^{-\text{batch}/\text{half-life}},

with the half-life counted in images and, early on, limited to a share of the images seen so far
(Karras et al. 2022, arXiv:2206.00364, appendix F), so that the random start is forgotten.

All randomness comes from ``TrainingConfig.seed``: on a CPU, the same seed gives the same weights, in one go or in
several (:class:`Run` keeps all that is needed to go on), in one process or in several (:func:`accelerator`).
"""

from .config import TrainingConfig
from .ema import EMA
from .files import load_checkpoint, save_checkpoint, sha256, write_atomically
from .loop import LossFunction, Start, TrainingDiverged, TrainingResult, batches, train
from .optimizers import MuonAdamW, hidden_matrices, optimizer_of
from .processes import accelerator, is_launched
from .run import Run

__all__ = [
    "EMA",
    "LossFunction",
    "MuonAdamW",
    "Run",
    "Start",
    "TrainingConfig",
    "TrainingDiverged",
    "TrainingResult",
    "accelerator",
    "batches",
    "hidden_matrices",
    "is_launched",
    "load_checkpoint",
    "optimizer_of",
    "save_checkpoint",
    "sha256",
    "train",
    "write_atomically",
]
