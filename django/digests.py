"""Write `django/digests` anew, next to this file: `python3 django/digests.py` after any change of the formula's files.

It has the digest of each file that a minion fetches from its master one by one, in the format of sha256sum, so that
`sha256sum --check django/digests` compares it too. See docs/decisions/0065.
"""

import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIGESTS = ROOT / "django/digests"
#: What minions fetch.
PATTERNS = ("_modules/*.py", "_states/*.py", "_utils/*.py", "django/**/*")


def lines() -> list[str]:
    """Return the lines of `django/digests` that are true of the files as they are."""
    files = {path for pattern in PATTERNS for path in ROOT.glob(pattern) if path.is_file()}
    files -= {DIGESTS, Path(__file__).resolve()}
    names = {path.relative_to(ROOT).as_posix(): path for path in files if "__pycache__" not in path.parts}
    return [f"{hashlib.sha256(names[name].read_bytes()).hexdigest()}  {name}\n" for name in sorted(names)]


if __name__ == "__main__":
    DIGESTS.write_text("".join(lines()), encoding="utf-8")
