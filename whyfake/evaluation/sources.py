"""Which pictures an evaluation is made on: a CSV file, or one of the layouts of data sets."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError
from ..evaluate.layouts import celeb_df as read_celeb_df
from ..evaluate.layouts import dfdc as read_dfdc
from ..evaluate.layouts import faceforensics
from ..evaluate.manifest import Manifest, read_manifest


def manifest_from(
    manifest: Path | None,
    *,
    ffpp: Path | None = None,
    ffpp_list: Path | None = None,
    dfdc: Path | None = None,
    celeb_df: Path | None = None,
    frames: int = 10,
) -> Manifest:
    """The manifest that exactly one of the arguments names. Raises UsageError, ManifestError."""
    given = {"MANIFEST": manifest, "--ffpp": ffpp, "--dfdc": dfdc, "--celeb-df": celeb_df}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        got = " and ".join(named) or "none"
        raise UsageError(f"name the pictures by one of {', '.join(given)}; got {got}")
    if ffpp_list is not None and ffpp is None:
        raise UsageError("--ffpp-list names pictures in FaceForensics++: give its folder by --ffpp")
    if ffpp is not None:
        return faceforensics(ffpp, frames=frames, listed=ffpp_list)
    if dfdc is not None:
        return read_dfdc(dfdc, frames=frames)
    if celeb_df is not None:
        return read_celeb_df(celeb_df, frames=frames)
    assert manifest is not None
    return read_manifest(manifest)
