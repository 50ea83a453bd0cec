"""Networks ``(x_t, t) → tensor``. They know nothing of noise schedules: t is a number to embed.

* :class:`SinusoidalTimeEmbedding`, :class:`ResidualBlock`, :class:`AttentionBlock`, :class:`SimpleUNet`:
  the assignment's blocks, with its signatures and attribute names, so that its state dicts load.
* :class:`FastUNet`: two resolutions, class-conditional, made for speed.
* :class:`TimeMLP`, :class:`ImageMLP`: for points in the plane, and for pictures of a few pixels.
* :class:`EnergyMLP`, :class:`EnergyCNN`: one number a sample, for points and for pictures.
* :class:`SmallClassifier`, :class:`CIFARNet`: whose features measure distances between sets of digits, or of colour
  pictures.
"""

from .blocks import AttentionBlock, ResidualBlock
from .cifarnet import CIFARNet
from .classifier import SmallClassifier
from .embeddings import SinusoidalTimeEmbedding, sinusoidal_embedding
from .energy_nets import EnergyCNN, EnergyMLP
from .fast_unet import FastUNet
from .mlp import ImageMLP, TimeMLP
from .unet import SimpleUNet

__all__ = [
    "AttentionBlock",
    "CIFARNet",
    "EnergyCNN",
    "EnergyMLP",
    "FastUNet",
    "ImageMLP",
    "ResidualBlock",
    "SimpleUNet",
    "SinusoidalTimeEmbedding",
    "SmallClassifier",
    "TimeMLP",
    "sinusoidal_embedding",
]
