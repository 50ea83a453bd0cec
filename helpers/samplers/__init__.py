"""From noise to data: samplers on discrete timesteps, and solvers, guidance and editing in continuous noise.

* ``discrete``: DDPM and DDIM on the timesteps of a schedule, run by :func:`sample`.
* ``denoisers``: what D(x; σ) is, and :func:`as_denoiser`, which makes one of a model of discrete steps.
* ``continuous``: few-step solvers of the probability-flow ODE, run by :func:`sample_ode`.
* ``guidance``: denoisers made of two: classifier-free guidance and autoguidance.
* ``editing``: inpainting and image to image.
"""

from .continuous import (
    IPNDM,
    Churn,
    ContinuousTrajectory,
    DPMSolverPP2M,
    Euler,
    Heun,
    History,
    Solver,
    UniPC,
    evaluations,
    sample_ode,
    steps_for,
)
from .denoisers import Denoiser, DiscreteDenoiser, as_denoiser
from .discrete import (
    DDIMSampler,
    DDPMSampler,
    Sampler,
    Trajectory,
    Variance,
    ddim_encode,
    ddim_step,
    ddpm_step,
    evaluating,
    sample,
    spaced_timesteps,
)
from .editing import image_to_image, inpaint
from .guidance import Autoguided, Guided

__all__ = [
    "IPNDM",
    "Autoguided",
    "Churn",
    "ContinuousTrajectory",
    "DDIMSampler",
    "DDPMSampler",
    "DPMSolverPP2M",
    "Denoiser",
    "DiscreteDenoiser",
    "Euler",
    "Guided",
    "Heun",
    "History",
    "Sampler",
    "Solver",
    "Trajectory",
    "UniPC",
    "Variance",
    "as_denoiser",
    "ddim_encode",
    "ddim_step",
    "ddpm_step",
    "evaluating",
    "evaluations",
    "image_to_image",
    "inpaint",
    "sample",
    "sample_ode",
    "spaced_timesteps",
    "steps_for",
]
