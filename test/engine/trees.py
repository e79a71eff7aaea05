"""Trees of files for tests."""

from pathlib import Path


def write_tree(folder: Path, files: dict[str, str]) -> Path:
    """Write files, path → content, and return their folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder
