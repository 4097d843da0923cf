"""Makes the single-file verifier: `python -m witness.onefile bayspace-verify.pyz`.

A zip file of the modules that `auditor.py` imports, and no others, so that an auditor installs neither
connector nor kernel: Python 3.11 and `cryptography` are enough. Equal sources give equal bytes on every
machine (no times, no compression, sorted names), so that anybody can rebuild it and compare. Refuses to
pack a module that needs anything but the standard library and `cryptography`.
"""

import ast
import hashlib
import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from witness.files import Folder

ENTRY = "auditor"
_ALLOWED = frozenset({*sys.stdlib_module_names, "cryptography"})
_SHEBANG = b"#!/usr/bin/env python3\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MAIN = '''\
"""Verifies bayspace evidence offline. Needs Python 3.11 and the package cryptography, version 50 or newer."""

import sys

try:
    from cryptography.hazmat.primitives.asymmetric import mldsa as _needed
except ImportError:
    sys.stderr.write("This verifier needs the Python package cryptography, version 50 or newer.\\n")
    sys.exit(2)

from witness.auditor import main

sys.exit(main())
'''


class NotSelfContained(RuntimeError):
    """A module on the auditor's path imports something that an auditor does not have."""


def build() -> bytes:
    """The file's bytes. Raises NotSelfContained."""
    sources = {"__main__.py": _MAIN.encode()}
    for name in sorted(_closure(Path(__file__).parent)):
        sources[f"witness/{name}.py"] = (Path(__file__).parent / f"{name}.py").read_bytes()
    packed = io.BytesIO(_SHEBANG)
    packed.seek(0, io.SEEK_END)
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_STORED) as archive:
        for name, source in sources.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, source)
    return packed.getvalue()


def _closure(folder: Path) -> set[str]:
    """The modules of this package that ENTRY imports, directly or through others."""
    found: set[str] = set()
    waiting = [ENTRY, "__init__"]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        tree = ast.parse((folder / f"{name}.py").read_text("utf-8"))
        waiting += [imported for imported in _ours(name, tree) if (folder / f"{imported}.py").exists()]
    return found


def _ours(name: str, tree: ast.AST) -> Iterator[str]:
    for module, parts in _imports(tree):
        if module == "witness":
            yield from parts
        elif module.startswith("witness."):
            yield module.removeprefix("witness.")
        elif module.partition(".")[0] not in _ALLOWED:
            raise NotSelfContained(f"witness/{name}.py imports {module}")


def _imports(tree: ast.AST) -> Iterator[tuple[str, list[str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, [alias.name for alias in node.names]


def main(arguments: list[str]) -> int:
    """Writes the file and prints its SHA-256."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m witness.onefile FILE\n")
        return 2
    target, data = Path(arguments[0]), build()
    Folder(target.parent).write(target.name, data, mode=0o755)
    sys.stdout.write(f"{hashlib.sha256(data).hexdigest()}  {target}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
