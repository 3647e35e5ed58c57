"""From a clip to an explained clip: a folder of explanations, an overlay, and a page."""

from .api import explain_video
from .batch import clip_folders, result_folders
from .explain import FaceDone, FaceFailed
from .page import write_page
from .plan import Choice, Plan, parse_choice
from .run import ClipResult, Output, Watcher, explain_clip

__all__ = [
    "Choice",
    "ClipResult",
    "FaceDone",
    "FaceFailed",
    "Output",
    "Plan",
    "Watcher",
    "clip_folders",
    "explain_clip",
    "explain_video",
    "parse_choice",
    "result_folders",
    "write_page",
]
