"""The diffusion process and what networks learn of it: discrete time (DDPM), and continuous noise levels (EDM)."""

from .discrete import (
    Model,
    Parametrization,
    convert,
    from_x0,
    per_timestep_loss,
    predict_x0,
    predict_x0_at,
    q_posterior,
    q_sample,
    q_step,
    simple_loss,
    vlb_weights,
)
from .edm import EDMPrecond, drop_labels, edm_loss, stratified_sigmas

__all__ = [
    "EDMPrecond",
    "Model",
    "Parametrization",
    "convert",
    "drop_labels",
    "edm_loss",
    "from_x0",
    "per_timestep_loss",
    "predict_x0",
    "predict_x0_at",
    "q_posterior",
    "q_sample",
    "q_step",
    "simple_loss",
    "stratified_sigmas",
    "vlb_weights",
]
