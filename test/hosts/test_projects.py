"""Real projects, each deployed by its pillar alone and upgraded from one version to another.

A recipe is a file in test/projects, with these keys:

about: what is special about the project
debian: the release of the host; bookworm by default
versions: the first is deployed, each further one is an upgrade
owner: commands of bash that create a version ($VERSION) in an empty folder, which is then committed
host: commands that run on the host before, as root: database servers, npm
pillar: the site, without repository and domain
pages: path → words of the page
write, read: a management command after the first version; a program, and what it prints after each
"""

from typing import Any

import pytest
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
    tar -x --strip-components=1 -f /tmp/sdist/*.tar.gz
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


def look(site: Site, pages: dict[str, str]) -> None:
    """Check that each page is served and has the expected words."""
    for path, words in pages.items():
        response = site.get(path, timeout=60)
        assert (response.status_code, words in response.text) == (200, True), (path, response.text[:2000])


@pytest.mark.full
@pytest.mark.parametrize("name", RECIPES)
def test_real_project_is_deployed_and_upgraded(hosts, name):
    project = recipe(name)
    host = hosts(project.get("debian", "bookworm"), kind="ready")
    host.run(f"set -euo pipefail\nexport DEBIAN_FRONTEND=noninteractive\n{project.get('host', '')}", timeout=900)
    health = {"health": {"timeout": "60s"}}
    repository = f"file:///srv/projects/{name}"
    site = Site(host, name=name, repository=None, **{**health, **project["pillar"]})
    site.configure(repository=repository, revision="main")
    releases = set()
    for number, version in enumerate(project["versions"]):
        commit(host, name, str(version), project["owner"])
        site.deploy()
        releases.add(site.live)
        look(site, project["pages"])
        if number == 0 and "write" in project:
            site.manage(project["write"])
        if "read" in project:
            program, expected = project["read"]["program"], project["read"]["expected"]
            assert expected in site.manage(f'shell -c "{program}"').splitlines()
        assert not site.apply().changed
    assert len(releases) == len(project["versions"])
