r"""Editing with a denoiser that was trained for nothing but samples: inpainting, and images from images.

Both run a solver of :mod:`helpers.samplers.continuous` from an image instead of from noise alone.

* :func:`image_to_image` (SDEdit: Meng et al. 2021, arXiv:2108.01073) adds noise of level σ_start and solves from there:
  the larger σ_start, the less of the image is kept, coarse shapes last.
* :func:`inpaint` (RePaint: Lugmayr et al. 2022, arXiv:2201.09865) knows some pixels. At every level it puts them in,
  with that level's noise. That alone lets the unknown pixels see known ones that are noisier than they need be, and the
  result does not follow :math:`p(\text{unknown}|\text{known})`. Going back up a step by adding noise, and down again,
  several times, brings the two into
  agreement: in the limit of short steps these rounds are Langevin dynamics at that level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from tqdm import tqdm

from .continuous import (
    ContinuousTrajectory,
    CountedDenoiser,
    Solver,
    check_images,
    checked_grid,
    sample_ode,
    state_of,
)
from .denoisers import Denoiser
from .discrete import evaluating

__all__ = ["image_to_image", "inpaint"]

SAME_LEVEL = 1e-3
"""Levels this close to each other, relatively, are one."""


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


@torch.no_grad()
def inpaint(
    denoiser: Denoiser,
    solver: Solver,
    x_T: Tensor,
    sigmas: Tensor | Sequence[float],
    known: Tensor,
    mask: Tensor,
    *,
    rounds: int = 1,
    label: Tensor | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Tensor:
    r"""Fill in the pixels that are not known.

    Each step goes σ → σ' with the solver, and then sets the known pixels to :math:`known + \sigma'\varepsilon`. All
    rounds but the last add noise of variance :math:`\sigma^2 - \sigma'^2` to get back to σ. The evaluations are
    ``rounds`` times the solver's.

    Args:
        denoiser: ``denoiser(x, sigma)`` or, with labels, ``denoiser(x, sigma, label)``.
        solver: ``Euler()`` or ``Heun()``; the history of a multistep solver would be wrong after each change.
        x_T: Where the unknown pixels start, shape (B, …): standard normal noise times ``sigmas[0]``.
        sigmas: Noise levels, strictly decreasing, the last one 0.
        known: Clean images, shape (B, …); only the values under the mask matter.
        mask: True where a pixel is known; bool, of a shape that broadcasts to ``x_T``'s, for example (H, W).
        rounds: How many times each step is made; 1 does not go back.
        label: Class numbers (B,), int64.
        generator: Source of all noise, on the CPU.
        progress: Whether to show a progress bar.

    Returns:
        Shape and dtype of ``x_T``; equal to ``known`` under the mask.

    Raises:
        ValueError: For shapes, a grid or a number of rounds that do not fit, a mask that is not bool, or a multistep
            solver.
    """
    grid = checked_grid(sigmas, partial=False)
    check_images(x_T, label)
    if solver.multistep:
        raise ValueError(f"expected a solver of one step, Euler or Heun, got {solver}")
    if rounds < 1:
        raise ValueError(f"expected at least one round, got {rounds}")
    if known.shape != x_T.shape:
        raise ValueError(f"expected known images of shape {tuple(x_T.shape)}, got {tuple(known.shape)}")
    mask = _checked_mask(mask, x_T)
    denoise, known_state = CountedDenoiser(denoiser, x_T.dtype, label), state_of(known.to(x_T.device))

    def with_known(x: Tensor, sigma: float) -> Tensor:
        return torch.where(mask, known_state + sigma * _normal(x, generator), x)

    x, steps = with_known(state_of(x_T), grid[0]), list(pairwise(grid))
    with evaluating(denoiser):
        for sigma, sigma_next in tqdm(steps, desc="inpainting") if progress else steps:
            for again in reversed(range(rounds)):
                x = solver.step(denoise, x, denoise(x, sigma), sigma, sigma_next, None)
                x = with_known(x, sigma_next)
                if again:
                    x = x + math.sqrt(sigma**2 - sigma_next**2) * _normal(x, generator)
    return x.to(x_T.dtype)  # the last step has set the known pixels without noise


def _checked_mask(mask: Tensor, x: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        raise ValueError(f"expected a bool mask, True where a pixel is known, got {mask.dtype}")
    try:
        return mask.to(x.device).expand(x.shape)
    except RuntimeError as error:
        shapes = f"{tuple(x.shape)}, got {tuple(mask.shape)}"
        raise ValueError(f"expected a mask of a shape that broadcasts to {shapes}") from error


def image_to_image(
    denoiser: Denoiser,
    solver: Solver,
    x_0: Tensor,
    sigmas: Tensor | Sequence[float],
    sigma_start: float,
    *,
    label: Tensor | None = None,
    generator: torch.Generator | None = None,
    return_trajectory: bool = False,
    progress: bool = False,
) -> Tensor | ContinuousTrajectory:
    """Noise images to σ_start and solve from there.

    Args:
        denoiser: ``denoiser(x, sigma)`` or, with labels, ``denoiser(x, sigma, label)``.
        solver: Any solver.
        x_0: Clean images (B, …), for example a sketch, or a picture to vary.
        sigmas: The grid of a full run, ending in 0; the run takes ``sigma_start`` and then its levels below that one
            (by a thousandth at least).
        sigma_start: How much noise, above 0 and at most ``sigmas[0]``: 0 would change nothing.
        label: Class numbers (B,), int64: what the images shall become.
        generator: Source of the noise, on the CPU.
        return_trajectory: Whether to keep all states.
        progress: Whether to show a progress bar.

    Returns:
        Images of the shape and dtype of ``x_0``, or the whole trajectory.

    Raises:
        ValueError: For a ``sigma_start`` outside of the grid, and as :func:`~helpers.samplers.sample_ode`.
    """
    grid = checked_grid(sigmas, partial=False)
    check_images(x_0, label)
    if not 0 < sigma_start <= grid[0]:
        raise ValueError(f"expected 0 < sigma_start <= {grid[0]:.4g}, the grid's first level, got {sigma_start}")
    x = x_0 + sigma_start * _normal(x_0, generator)
    # A first step that is next to nothing would make a multistep solver divide rounding errors by its length.
    shorter = [float(sigma_start), *(sigma for sigma in grid if sigma < (1 - SAME_LEVEL) * sigma_start)]
    return sample_ode(denoiser, solver, x, shorter, label=label, return_trajectory=return_trajectory, progress=progress)
