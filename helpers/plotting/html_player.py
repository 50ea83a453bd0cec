"""A player for frames of small images: one piece of HTML that needs no other file, library or network.

Matplotlib's own player asks a server for the icons of its buttons and gives itself a new random name in every run. This
one carries its pixels as they are (the browser enlarges them), and its name is a hash of its content.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from .images import _check_columns, _check_images, _tiles

__all__ = ["Player", "play_images"]

_PAGE = """<div style="max-width:{width}px;text-align:center">
<img id="frame-{key}" alt="{alt}" src="{shown}" style="width:100%;image-rendering:pixelated;background:white">
<div><button type="button" id="button-{key}" style="min-width:4.5em">Play</button>
<input type="range" id="slider-{key}" aria-label="frame" min="0" max="{top}" value="{start}" style="width:45%">
<span id="caption-{key}" style="display:inline-block;min-width:8em;text-align:left">{caption}</span></div></div>
<script>
(function () {{
  const frames = {frames}, captions = {captions};
  const find = (name) => document.getElementById(name + "-{key}");
  const frame = find("frame"), button = find("button"), slider = find("slider"), caption = find("caption");
  let timer = null;
  const show = (k) => {{ frame.src = frames[k]; slider.value = k; caption.textContent = captions[k]; }};
  const pause = () => {{ clearInterval(timer); timer = null; button.textContent = "Play"; }};
  const tick = () => {{ +slider.value < {top} ? show(+slider.value + 1) : pause(); }};
  slider.oninput = () => {{ pause(); show(+slider.value); }};
  button.onclick = () => {{
    if (timer) return pause();
    if (+slider.value >= {top}) show(0);
    button.textContent = "Pause";
    timer = setInterval(tick, {interval});
  }};
}})();
</script>"""


@dataclass(frozen=True)
class Player:
    """What a notebook shows as a player.

    Attributes:
        html: The whole player.
        n_frames: Number of frames.
    """

    html: str = field(repr=False)
    n_frames: int

    def _repr_html_(self) -> str:
        return self.html


def _png(picture: Tensor) -> str:
    """(H, W, 3) in [0, 1] → the address of a PNG that holds its data; grey if all channels agree."""
    pixels = (picture * 255).round().to(torch.uint8)
    if bool((pixels == pixels[..., :1]).all()):
        pixels = pixels[..., 0]
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def play_images(
    frames: Tensor,
    captions: Sequence[str] = (),
    columns: int = 8,
    interval: int = 120,
    width: int = 480,
    alt: str = "Animation of images",
    start: int = -1,
) -> Player:
    """A grid of images that changes with time, with a play button and a slider.

    Args:
        frames: (S, B, C, H, W) in [−1, 1]: S moments of B images.
        captions: S captions, or none.
        columns: Images in a row.
        interval: Milliseconds between frames.
        width: Largest width in pixels.
        alt: What is to be seen, for those who cannot see it.
        start: Index of the frame that is shown before anybody presses play; the last one if not given.

    Raises:
        ValueError: For another shape, ``columns`` below 1, captions that do not fit, or a ``start`` that is no frame.
    """
    _check_images(frames, 5, "frames")
    _check_columns(columns)
    if captions and len(captions) != len(frames):
        raise ValueError(f"expected {len(frames)} captions, got {len(captions)}")
    if not -len(frames) <= start < len(frames):
        raise ValueError(f"expected start from {-len(frames)} to {len(frames) - 1}, got {start}")
    captions = list(captions) or [""] * len(frames)
    pictures = [_png(_tiles(images, columns)) for images in frames]
    key = hashlib.sha256("".join([*pictures, *captions]).encode()).hexdigest()[:32]
    page = _PAGE.format(
        key=key,
        width=width,
        alt=html.escape(alt),
        shown=pictures[start],
        start=range(len(frames))[start],
        top=len(frames) - 1,
        caption=html.escape(captions[start]),
        frames=json.dumps(pictures),
        captions=json.dumps(captions).replace("</", "<\\/"),
        interval=interval,
    )
    return Player(page, len(frames))
