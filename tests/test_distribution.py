"""What an installation holds: every package and every file of the repository's two source folders."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def packages():
    """Each package's dotted name and its folder, as the repository has them."""
    for name, folder in SETUPTOOLS["package-dir"].items():
        top = ROOT / folder
        for init in sorted(top.rglob("__init__.py")):
            yield ".".join([name, *init.parent.relative_to(top).parts]), init.parent


def test_every_package_is_installed():
    assert sorted(SETUPTOOLS["packages"]) == sorted(name for name, _ in packages())


def test_every_file_is_installed():
    data = SETUPTOOLS["package-data"]
    missing = [
        path.relative_to(ROOT).as_posix()
        for name, folder in packages()
        for path in folder.iterdir()
        if path.is_file() and path.suffix not in {".py", ".pyc"}
        if not any(fnmatch(path.name, pattern) for pattern in [*data["*"], *data.get(name, [])])
    ]
    assert not missing, f"add these to [tool.setuptools.package-data] in pyproject.toml: {missing}"


def test_every_source_file_is_in_a_package():
    folders = {folder for _, folder in packages()}
    tops = [ROOT / folder for folder in SETUPTOOLS["package-dir"].values()]
    stray = [path for top in tops for path in top.rglob("*.py") if path.parent not in folders]
    assert not stray, f"folders without an __init__.py are not installed: {stray}"
