r"""Energies: scalars :math:`E(x)` with :math:`p(x) \propto e^{-E(x)/T}`, low where x is likely.

An energy is any callable ``energy(x) -> (B,)``; one that knows noise levels is ``energy(x, sigma[, label]) -> (B,)``.

* :func:`score`: −∇E by autograd, with the mistakes that are easily made named; :func:`energy_and_gradient` gives both,
  :func:`frozen` holds a network still while it is sampled.
* :class:`Sum`, :class:`Mixture`, :class:`Tempered`, :class:`AtLevel`: energies made of energies.
* :class:`InnerProductEnergy`: a noise-conditional energy made of a denoising network; :class:`ClassifierEnergy`: one
  made of a classifier.
"""

from .compositions import AtLevel, Mixture, Sum, Tempered
from .gradients import Energy, NonFiniteEnergyError, energy_and_gradient, frozen, score
from .networks import ClassifierEnergy, GradientField, InnerProductEnergy

__all__ = [
    "AtLevel",
    "ClassifierEnergy",
    "Energy",
    "GradientField",
    "InnerProductEnergy",
    "Mixture",
    "NonFiniteEnergyError",
    "Sum",
    "Tempered",
    "energy_and_gradient",
    "frozen",
    "score",
]
