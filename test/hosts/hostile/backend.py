"""A build backend (PEP 517) with no dependencies: runs attack.py, then makes an empty wheel."""

import os
import pathlib
import zipfile
from typing import Any

HERE = pathlib.Path(__file__).parent
INFO = "evilpkg-1.dist-info"
METADATA = "Metadata-Version: 2.1\nName: evilpkg\nVersion: 1\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: evil\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def build_wheel(folder: str, config_settings: Any = None, metadata_directory: Any = None) -> str:
    """Run the attack and make the wheel."""
    del config_settings, metadata_directory
    attack = HERE / "attack.py"
    if attack.exists():
        exec(compile(attack.read_text(), str(attack), "exec"), {"__name__": "attack"})
    name = "evilpkg-1-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        files = {"evilpkg.py": "", f"{INFO}/METADATA": METADATA, f"{INFO}/WHEEL": WHEEL}
        record = "".join(f"{path},,\n" for path in [*files, f"{INFO}/RECORD"])
        for path, text in {**files, f"{INFO}/RECORD": record}.items():
            wheel.writestr(path, text)
    return name
