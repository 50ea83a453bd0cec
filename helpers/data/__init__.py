"""Images in, tensors in [−1, 1] out; and 2-D toy densities.

The digits (which ship inside scikit-learn) and the 2-D sets (which are drawn on the spot) work without a network.

* :func:`digits`, :class:`Split`: 1,797 handwritten digits, split for training and testing.
* :func:`cifar10`, :class:`CIFAR10`: 60,000 colour photographs, from a folder, a cache or a download.
* :func:`image_folder`, :func:`folder_bytes`: any folder of pictures; :func:`central_square`: one picture.
* :func:`toy_2d`, :data:`TOY_2D`: points in the plane.
* :func:`from_uint8`, :func:`to_uint8`: between bytes and the course's range.
"""

from .cifar import CIFAR10, cifar10
from .folder import IMAGE_SUFFIXES, central_square, folder_bytes, image_folder
from .handwritten import Split, digits
from .pixels import from_uint8, to_uint8
from .toy import TOY_2D, toy_2d

__all__ = [
    "CIFAR10",
    "IMAGE_SUFFIXES",
    "TOY_2D",
    "Split",
    "central_square",
    "cifar10",
    "digits",
    "folder_bytes",
    "from_uint8",
    "image_folder",
    "to_uint8",
    "toy_2d",
]
