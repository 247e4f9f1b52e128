"""The list of PyTorch's public names, `torch_names.txt`.

`python -m deepcore.torch_names` counts how many of them exist here, and with `--absent` names the others; `--write`
makes the list anew from the PyTorch that is installed.
"""

from __future__ import annotations

import inspect
import pkgutil
import sys
import warnings

from deepcore.missing import FILE, PLACES, find, here, torch_names


def listed(place: str) -> list[str]:
    """The public names of PyTorch's `place`, without what it imports from elsewhere."""
    owner = find(place)
    names = [m.name for m in pkgutil.iter_modules(getattr(owner, "__path__", ())) if not m.name.startswith("_")]
    for name in set(dir(owner)).difference(names):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = getattr(owner, name, None)
        home = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
        own = not isinstance(home, str) or home.partition(".")[0] in ("torch", "builtins")
        if name.isidentifier() and not name.startswith("_") and own:
            names.append(name)
    return sorted(names)


def main(arguments: list[str]) -> int:
    if "--write" in arguments:
        import torch

        version = torch.__version__.partition("+")[0]
        lines = [f"# Public names of PyTorch {version}, written by `python -m deepcore.torch_names --write`."]
        lines += [f"{place}: {' '.join(listed(place))}" for place in PLACES]
        FILE.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        torch_names.cache_clear()
    have = total = 0
    for place, names in torch_names().items():
        owner = find(here(place, "deepcore"))
        absent = sorted(name for name in names if owner is None or not hasattr(owner, name))
        have, total = have + len(names) - len(absent), total + len(names)
        print(f"{place:<26}{len(names) - len(absent):>5} of {len(names)}")
        if "--absent" in arguments:
            print(f"    {' '.join(absent)}")
    print(f"{'all':<26}{have:>5} of {total}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
