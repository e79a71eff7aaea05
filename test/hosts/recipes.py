"""Recipes of real projects, for tests and for bench.

A recipe is a file in test/projects, with these keys:

about: what is special about the project
debian: the release of the host; bookworm by default
versions: the first is deployed, each further one is an upgrade
owner: commands of bash that create a version ($VERSION) in an empty folder, which is then committed
host: commands that run on the host before, as root: database servers, npm
pillar: the site, without repository and domain
pages: path → words of the page
write, read: a management command after the first version; a program, and what it prints after each
work: `enqueue`, a program that enqueues tasks, run again and again; `done`, one that prints how many have run;
    `tasks`, how many `enqueue` adds
run: a schedule that is run after each version
"""

import re
from collections.abc import Collection
from typing import Any

import yaml
from lab import ROOT, Host
from sites import Site

RECIPES = {path.stem: path for path in sorted((ROOT / "test/projects").glob("*.yaml"))}
UV = "/usr/local/lib/django-formula/uv/bin"
#: The owner's commands run in an empty folder, which is then committed.
OWNER = """
set -euo pipefail
export HOME=/root PATH={uv}:$PATH VERSION={version} UV_LINK_MODE=copy REQUESTS_CA_BUNDLE=$SSL_CERT_FILE
git config --global user.name Ada
git config --global user.email ada@example.org
sdist() {{ # the source distribution of a package, unpacked here
    mkdir /tmp/sdist
    pip download --quiet --disable-pip-version-check --no-deps --no-binary=:all: --dest=/tmp/sdist "$1==$VERSION"
    tar -x --strip-components=1 --exclude='*/.git' -f /tmp/sdist/*.tar.gz
    rm -r /tmp/sdist
}}
mkdir -p /srv/projects/{name}
cd /srv/projects/{name}
git init --quiet --initial-branch=main
find . -mindepth 1 -maxdepth 1 ! -name .git -exec rm -r {{}} +
{owner}
git add --all --force
git commit --quiet --allow-empty --message="{name} {version}"
"""


def recipe(name: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(RECIPES[name].read_text())
    return read


def commit(host: Host, name: str, version: str, owner: str) -> None:
    """Commit a version of the project, as its owner."""
    host.run(OWNER.format(uv=UV, name=name, version=version, owner=owner), timeout=900)


def visit(site: Site, pages: Collection[str], most: int = 60) -> list[str]:
    """Request pages and those that they link to, as visitors do; return the paths that are pages."""
    rest, seen, found = list(pages), set[str](), []
    while rest and len(seen) < most:
        path = rest.pop(0)
        if path not in seen and not re.search("logout|delete", path):
            seen.add(path)
            response = site.get(path, timeout=60)
            is_page = response.status_code == 200 and "html" in response.headers.get("content-type", "")
            if is_page:
                found.append(path)
                rest += re.findall(r"""<a\b[^>]*\bhref=["'](/[^/"'#?][^"'#]*)""", response.text)
    return found
