"""A small image classifier; its last hidden layer is the feature space in which sets of digits are compared."""

from __future__ import annotations

from torch import Tensor, nn

from .blocks import check_channels

__all__ = ["SmallClassifier"]


class SmallClassifier(nn.Module):
    """Two strided convolutions and two linear layers, about as small as a good digit classifier can be.

    Args:
        size: Height and width of the images, divisible by 4.
        in_channels: Channels of the images.
        n_classes: Number of classes.
        width: Channels of the first convolution, a multiple of 8.
        n_features: Length of the feature vector.

    Raises:
        ValueError: If ``size`` is not divisible by 4 or ``width`` not a multiple of 8.
    """

    def __init__(
        self, size: int = 16, in_channels: int = 1, n_classes: int = 10, width: int = 16, n_features: int = 64
    ) -> None:
        super().__init__()
        check_channels(width=width)
        if size < 4 or size % 4:
            raise ValueError(f"expected a size divisible by 4, got {size}")
        self.shape = (in_channels, size, size)
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride=2, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(2 * width * (size // 4) ** 2, n_features),
            nn.SiLU(),
        )
        self.head = nn.Linear(n_features, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, in_channels, size, size) → logits (B, n_classes). ``features`` gives (B, n_features).

        Raises:
            ValueError: For images of another shape.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"expected images of shape (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        return self.head(self.features(x))
