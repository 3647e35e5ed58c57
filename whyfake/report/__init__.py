"""Pictures out: heat over the frame, for one explanation or for several methods side by side."""

from .overlay import overlay, png_bytes, strip

__all__ = ["overlay", "png_bytes", "strip"]
