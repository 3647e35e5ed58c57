"""Pictures out: heat over the frame, methods side by side, and pages of them."""

from .overlay import overlay, png_bytes, strip
from .page import Section, Tile, page

__all__ = ["Section", "Tile", "overlay", "page", "png_bytes", "strip"]
