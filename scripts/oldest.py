"""Prints pip constraints: the oldest versions that pyproject.toml allows of what a user installs.

    python scripts/oldest.py > oldest.txt && pip install -c oldest.txt '.[cpu,video]'

For `>=1.26` that is the last patch of 1.26. Only what has a wheel for this Python can be had so.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXTRAS = ("cpu", "video", "plot")


def main() -> None:
    """Print a constraint a line."""
    content = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(content)["project"]
    wanted = [*project["dependencies"]]
    for extra in EXTRAS:
        wanted += project["optional-dependencies"][extra]
    for requirement in wanted:
        name, lowest, condition = re.fullmatch(r"([\w-]+)>=([\d.]+)(;.*)?", requirement).groups()
        print(f"{name}=={lowest}.*{condition or ''}")


if __name__ == "__main__":
    main()
