"""An archive of an interpreter in the layout of uv's, made of Debian 13's Python and its C library.

So it runs on Debian 12. Tests cannot download the real archives, which begin at `python/` too.
"""

import json
import tempfile
from pathlib import Path
from typing import NamedTuple

from lab import Host, podman

FOLDER = "/usr/local/lib/django-formula/python"
BUILD = "20260101"
TABLE = "/srv/formula/django/pythons.yaml"
MAKE = r"""
set -eu
python=/tmp/made/python lib=/tmp/made/python/lib
mkdir -p $python/bin $python/include $lib
cp /usr/bin/python3.13 $lib/interpreter
cat >$python/bin/python3.13 <<'PROGRAM'
#!/bin/sh
exec PLACE/lib/ld-linux-x86-64.so.2 --library-path PLACE/lib --argv0 "$0" PLACE/lib/interpreter "$@"
PROGRAM
chmod 0755 $python/bin/python3.13
ln -s python3.13 $python/bin/python3
cp -r /usr/lib/python3.13 $lib/
find $lib -name __pycache__ -prune -exec rm -r {} +
find $lib -lname '/*' -delete
{ ldd /usr/bin/python3.13; ldd $lib/python3.13/lib-dynload/*.so; } |
    sed -nE 's/.* => (\/[^ ]+) .*/\1/p; s/^\s*(\/lib64\/[^ ]+) .*/\1/p' | sort -u | xargs -I{} cp -L {} $lib/
tar -C /tmp/made -czf /tmp/python.tar.gz python
sha256sum /tmp/python.tar.gz
"""


class Archive(NamedTuple):
    """An archive, its path below a mirror, and what `django/pythons.yaml` has of it."""

    release: str
    path: str
    sha256: str
    content: bytes

    @property
    def table(self) -> str:
        archives = {"x86_64": {"path": self.path, "sha256": self.sha256}}
        known = {"3.13": {"version": self.release, "archives": archives}}
        return json.dumps({"origin": "http://127.0.0.1:9", "versions": known})


def made_on(host: Host) -> Archive:
    """Make an archive of the Python of a host with Debian 13."""
    release = host.run(["python3", "-c", "import platform; print(platform.python_version())"]).stdout.strip()
    place = f"{FOLDER}/{release}/cpython-{release}-linux-x86_64-gnu"
    sha256, _file = host.run(MAKE.replace("PLACE", place), timeout=600).stdout.split()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "python.tar.gz")
        podman("cp", f"{host.container}:/tmp/python.tar.gz", str(file))
        content = file.read_bytes()
    name = f"cpython-{release}+{BUILD}-x86_64-unknown-linux-gnu-install_only_stripped.tar.gz"
    return Archive(release, f"{BUILD}/{name}", sha256, content)
