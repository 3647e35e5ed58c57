"""Pictures out: the heat map over the frame, for one explanation or several methods side by side."""

from .overlay import overlay, png_bytes, strip

__all__ = ["overlay", "png_bytes", "strip"]
