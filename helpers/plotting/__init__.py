"""Figures of the lessons: functions return the figure, labelled, in colours that colour-blind readers can tell."""

from ._style import COLORS, DIVERGING, SEQUENTIAL, new_figure, use_course_style
from .architecture import Stage, attention_maps, conv_placements, receptive_fields, unet_diagram
from .curves import loss_curves, schedule_curves, smooth
from .embeddings import clock_hands, embedding_heatmap
from .fields import density_2d, grid_2d, points_2d, score_field_2d
from .html_player import Player, play_images
from .images import film_strip, image_grid, show_image
from .landscapes import energy_2d, particle_frames
from .trajectories import paths_1d, shade_noised

__all__ = [
    "COLORS",
    "DIVERGING",
    "SEQUENTIAL",
    "Player",
    "Stage",
    "attention_maps",
    "clock_hands",
    "conv_placements",
    "density_2d",
    "embedding_heatmap",
    "energy_2d",
    "film_strip",
    "grid_2d",
    "image_grid",
    "loss_curves",
    "new_figure",
    "particle_frames",
    "paths_1d",
    "play_images",
    "points_2d",
    "receptive_fields",
    "schedule_curves",
    "score_field_2d",
    "shade_noised",
    "show_image",
    "smooth",
    "unet_diagram",
    "use_course_style",
]
