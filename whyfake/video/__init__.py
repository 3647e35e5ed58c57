"""From a clip to an explained clip: a folder of explanations, an overlay, and a page."""
