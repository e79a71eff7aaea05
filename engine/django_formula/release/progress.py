"""The steps that a release begins, told to who waits for it in another process: a line for each in a file."""

import contextlib
import os

#: The variable that has the path of the file, which root alone sets, for a process that root starts.
FILE = "DJANGO_FORMULA_STEPS"


def note(step: str) -> None:
    """Tell that a step begins; nothing where no one waits. No release depends on it."""
    path = os.environ.get(FILE)
    if path:
        with contextlib.suppress(OSError), open(path, "a", encoding="utf-8") as file:
            file.write(f"{step}\n")
