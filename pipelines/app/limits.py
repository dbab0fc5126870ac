"""What a user of the application may ask for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a user of the application may ask for."""

    max_images: int = 64
    """Images drawn by one request."""
    max_seconds: float = 120.0
    """Seconds that one request may compute."""
    max_megabytes: float = 10.0
    """Size of a picture's file."""
    max_megapixels: float = 50.0
    """Pixels of a picture, as its header announces them."""
    max_waiting: int = 32
    """Requests that wait for their turn; more are refused."""

    @property
    def max_bytes(self) -> int:
        """Of a picture's file."""
        return int(self.max_megabytes * 1e6)

    @property
    def max_pixels(self) -> int:
        """Of a picture."""
        return int(self.max_megapixels * 1e6)
