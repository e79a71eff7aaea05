"""What is rendered passes the own checker of the program that reads it: every case of test/render, in its place."""

import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cases import unfolded
from lab import Host

pytestmark = pytest.mark.full


PACKAGES = "apache2 libapache2-mod-wsgi-py3 libapache2-mod-xsendfile nginx-light openssl supervisor"
LISTENING = "$(find /etc/nginx/sites-available -type f)"
CERTIFICATE = "openssl req -x509 -nodes -subj /CN=localhost -keyout /tmp/key -out /tmp/chain 2>/dev/null"


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> list[Path]:
    return unfolded(tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="module")
def host(module_hosts) -> Iterator[Host]:
    """A host that has the programs, none of which runs."""
    host: Host = module_hosts("trixie")
    host.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", mode="0755")
    host.run(
        f"apt-get -qq update && apt-get -qq install --no-install-recommends {PACKAGES} >/dev/null",
        environment={"DEBIAN_FRONTEND": "noninteractive"},
    )
    host.run(f"rm -f /etc/*/sites-enabled/*; {CERTIFICATE}; cat /tmp/key /tmp/chain >/tmp/both")
    host.run("cp -a /etc/nginx /tmp/nginx; cp -a /etc/apache2 /tmp/apache2")
    return host


def packed(case: Path, folder: str) -> bytes:
    """The files and links of a part of a case, as an archive."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in sorted(path for path in (case / folder).rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(str(path.relative_to(case / folder)))
            text = path.read_text()
            if text.startswith("-> "):
                entry.type, entry.linkname = tarfile.SYMTYPE, text.removeprefix("-> ").strip()
                archive.addfile(entry)
            else:
                entry.size = len(text.encode())
                archive.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


def lay(host: Host, case: Path, program: str) -> bool:
    """Have the files of nginx or Apache of a case in /etc, and what they name; whether the case has any."""
    if not (case / program).is_dir():
        return False
    host.run(f"rm -rf /etc/{program} && cp -a /tmp/{program} /etc/{program}")
    host.send(packed(case, program), f"/etc/{program}")
    # The host has not the addresses of the cases, and nginx binds them for its test.
    host.run(f"sed -i 's/listen 192.0.2.10:/listen 127.0.0.1:/; s/listen .2001:db8::10]:/listen [::1]:/' {LISTENING}")
    text = "".join(path.read_text() for path in (case / program).rglob("*") if path.is_file())
    for path in {*re.findall(r"(?i)ssl_?(?:client_|ca)?certificate(?:file)? \"?([^\";\n]+)", text)}:
        host.run(["install", "-D", "/tmp/both", path])
    for site, path in {*re.findall(r"include (\S+/([^/\s]+)/current/config/upstream\.conf);", text)}:
        host.write(site, (case / path.removesuffix(".example.org") / "upstream.conf").read_text())
    for path in {*re.findall(r"(?i)include (/etc/\S+/blog\.conf)", text)}:
        if not (case / program / path.removeprefix(f"/etc/{program}/")).exists():
            host.write(path, "")
    return True


def test_nginx_accepts_its_files_without_warnings(host, cases):
    told = {case.name: host.run(["nginx", "-t", "-q"]).stderr for case in cases if lay(host, case, "nginx")}
    assert {case: lines for case, lines in told.items() if lines} == {} and len(told) > 15


def test_apache_accepts_its_files(host, cases):
    laid = [case for case in cases if lay(host, case, "apache2") and host.run(["apache2ctl", "configtest"])]
    assert len(laid) > 2


def test_apache_of_a_release_accepts_its_file(host, cases):
    files = [path for case in cases for path in case.glob("*/mod_wsgi.conf")]
    for path in files:
        text = path.read_text()
        folders = re.findall(r'^(?:ServerRoot|DefaultRuntimeDir) "([^"]+)"', text, re.MULTILINE)
        host.run(["mkdir", "-p", *folders])
        host.write("/tmp/mod_wsgi.conf", text)
        told = host.run(["apache2", "-t", "-f", "/tmp/mod_wsgi.conf"])
        assert "Syntax OK" in told.stdout + told.stderr
    assert len(files) > 2


def test_systemd_accepts_its_units(host, cases):
    checked = 0
    for case in cases:
        units = [path for path in case.glob("*/*") if path.suffix in (".service", ".socket")]
        host.run("rm -rf /tmp/units && mkdir /tmp/units")
        for path in units:
            host.write(f"/tmp/units/{path.name}", path.read_text())
            for program in re.findall(r"(?m)^Exec\w+=-?(/\S+)", path.read_text()):
                host.run(f"test -x {program} || install -D /bin/true {program}")
        if units:
            told = host.run("systemd-analyze verify --man=no /tmp/units/*")
            assert [line for line in told.stderr.splitlines() if "/tmp/units" in line] == []
            checked += len(units)
    assert checked > 30


def test_supervisor_accepts_its_programs(host, cases):
    host.run("supervisord --configuration /etc/supervisor/supervisord.conf")
    checked = 0
    for case in cases:
        programs = [*case.glob("*/django-*-0042.conf")]
        for path in programs:
            host.write(f"/etc/supervisor/conf.d/{path.name}", path.read_text())
        told = host.run(["supervisorctl", "reread"]).stdout.splitlines()
        assert {f"{path.stem}: available" for path in programs} == {*told} - {"No config updates to processes"}, told
        checked += len(programs)
        host.run("rm -f /etc/supervisor/conf.d/django-*")
    assert checked > 2
