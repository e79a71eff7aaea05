"""What is looked at of a proxy in an apply: nothing where nothing of it has changed, and all that may have."""

import os

import pytest
from django_formula.host import daemons, proc
from django_formula.proxy import nginx, reach
from django_formula.proxy.contract import Bound, Server
from django_formula.release import instances
from django_formula.site import sites

MAIN = "http {\n    include conf.d/*.conf;\n    include /CERTIFICATES/more/*.conf;\n}\n"
OWN = """# Written by django-formula
server {
    listen 80;
    ssl_certificate /CERTIFICATES/blog.pem;
}
"""


class Host:
    """A host with nginx, its files and a live site; it counts what is read and requested."""

    def __init__(self, folder, site, monkeypatch):
        self.site, self.etc, self.elsewhere = site, folder / "etc/nginx", folder / "elsewhere"
        self.pid, self.read, self.asked, self.answers = 7, 0, 0, [""]
        self.servers = [Server(str(self.etc / "sites-enabled/blog.example.org"), 2, [Bound("", 80, False)], [""])]
        for one in (
            self.etc / "conf.d",
            self.etc / "sites-enabled",
            self.etc / "sites-available",
            self.elsewhere / "more",
        ):
            one.mkdir(parents=True)
        (self.etc / "nginx.conf").write_text(MAIN.replace("/CERTIFICATES", str(self.elsewhere)))
        own = self.etc / "sites-available/blog.example.org"
        own.write_text(OWN.replace("/CERTIFICATES", str(self.elsewhere)))
        (self.etc / "sites-enabled/blog.example.org").symlink_to(own)
        (self.etc / "conf.d/django-blog.conf").write_text("upstream blog { }\n")
        (self.elsewhere / "blog.pem").write_text("a certificate")
        self.release(1)
        played = {
            (daemons, "pid"): lambda daemon: self.pid,
            (proc, "stat"): lambda pid: None,
            (sites, "known_maintenance"): lambda site: None,
            (instances, "serves"): lambda release: True,
            (reach, "_answers"): self.ask,
            (nginx.Nginx, "servers"): self.print_configuration,
        }
        for (module, name), value in played.items():
            monkeypatch.setattr(module, name, value)

    def release(self, number):
        site, release = self.site, self.site.releases / f"{number:04}-abc"
        release.mkdir()
        (release / "socket").touch()
        site.current.unlink(missing_ok=True)
        site.current.symlink_to(release)

    def print_configuration(self):
        self.read += 1
        return self.servers

    def ask(self, *_arguments):
        self.asked += 1
        return iter(self.answers)

    def apply(self, **options):
        """Look as an apply does, in a process of its own; return what is said, what was read and asked."""
        reach._configurations.clear()
        before = (self.read, self.asked)
        problem = reach.problem(self.site, anew=False, **options)
        return problem, self.read - before[0], self.asked - before[1]


@pytest.fixture
def host(own_host, make_site, monkeypatch):
    return Host(own_host, make_site(), monkeypatch)


def test_second_apply_reads_and_requests_nothing(host):
    assert host.apply() == ("", 1, 1)
    assert host.apply() == ("", 0, 0)


CHANGES = {
    "a file of nginx": lambda host: (host.etc / "nginx.conf").write_text("http { }\n"),
    "a new file next to others": lambda host: (host.etc / "conf.d/other.conf").write_text("server { }\n"),
    "a new file in a folder elsewhere": lambda host: (host.elsewhere / "more/x.conf").write_text("server { }\n"),
    "a file with its former time and size": lambda host: rewritten(host.etc / "conf.d/django-blog.conf"),
    "a link that is gone": lambda host: (host.etc / "sites-enabled/blog.example.org").unlink(),
    "a certificate that is gone": lambda host: (host.elsewhere / "blog.pem").unlink(),
}


def rewritten(path):
    """Write other content of the same size, and give the file back its time, as `cp --preserve` and rsync do."""
    before = path.stat()
    path.write_text(path.read_text().replace("blog", "bl0g"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_the_configuration_is_read(host, change):
    host.apply()
    CHANGES[change](host)
    assert host.apply() == ("", 1, 1)
    assert host.apply() == ("", 0, 0)


def test_folder_of_links_is_part_of_the_configuration(host):
    """Some hosts have conf.d elsewhere, and a link may lead back to where it is."""
    (host.etc / "conf.d").rename(host.elsewhere / "conf.d")
    (host.etc / "conf.d").symlink_to(host.elsewhere / "conf.d")
    (host.etc / "loop").symlink_to(host.etc)
    host.apply()
    assert host.apply() == ("", 0, 0)
    rewritten(host.etc / "conf.d/django-blog.conf")
    assert host.apply() == ("", 1, 1)


def test_no_text_of_a_certificate_is_searched_and_a_pipe_blocks_nothing(host):
    """The owner of a certificate is not root everywhere: it names no further files, whatever it has."""
    secret = host.elsewhere / "more/secret"
    secret.mkdir()
    (host.elsewhere / "blog.pem").write_text(f"include {secret}/*;\ninclude {secret}/one;\n")
    os.mkfifo(host.elsewhere / "more/late.conf")
    assert host.apply() == ("", 1, 1)
    paths = reach.seen(nginx.PROXY)
    assert str(host.elsewhere / "more/late.conf") in paths and not [one for one in paths if one.startswith(str(secret))]


def test_new_domain_is_looked_at(host):
    host.apply()
    host.site.config["domains"].append("new.example.org")
    problem, read, asked = host.apply()
    assert problem.startswith("new.example.org on port 80 is answered by") and (read, asked) == (1, 0)


ON_THE_WAY = {
    "another release": lambda host: host.release(2),
    "nginx has been restarted": lambda host: setattr(host, "pid", 8),
    "rights of the socket": lambda host: (host.site.current / "socket").chmod(0o600),
    "rights of a folder above it": lambda host: host.site.root.chmod(0o700),
    "another health page": lambda host: host.site.config["health"].update(path="/healthz"),
}


@pytest.mark.parametrize("change", ON_THE_WAY)
def test_what_changes_on_the_way_of_visitors_is_requested_and_nothing_is_read(host, change):
    host.apply()
    ON_THE_WAY[change](host)
    assert host.apply() == ("", 0, 1)
    assert host.apply() == ("", 0, 0)


@pytest.mark.parametrize("answer", ["returns 502, and the instance 200", None])
def test_site_that_is_not_reached_or_not_judged_is_requested_each_time(host, answer):
    host.answers = [answer]
    host.apply()
    assert [host.apply() for _apply in range(2)] == [(answer or "", int(bool(answer)), 1)] * 2


def test_rival_is_reported_in_each_apply(host):
    host.servers = [host.servers[0]._replace(path="/etc/nginx/conf.d/other.conf")]
    for _apply in range(2):
        problem, read, asked = host.apply()
        assert "blog.example.org" in problem and (read, asked) == (1, 0)


def test_status_looks_anew(host):
    host.apply()
    reach._configurations.clear()
    assert reach.problem(host.site) == "" and (host.read, host.asked) == (2, 2)


def test_all_is_looked_at_after_a_day(host, monkeypatch):
    host.apply()
    later = reach.time.time() + reach.TRUSTED
    monkeypatch.setattr(reach.time, "time", lambda: later)
    assert host.apply() == ("", 1, 1)


def test_configuration_is_read_once_in_an_apply_of_several_sites(host):
    assert [bool(reach.rivals(host.site)) for _site in range(3)] == [False] * 3
    assert host.read == 1
    (host.etc / "nginx.conf").write_text("http { }\n")
    reach.rivals(host.site)
    assert host.read == 2


def test_damaged_memory_counts_as_none(host):
    host.apply()
    for name in ("blog.proxy.json", "proxy-nginx.json"):
        (sites.RUNTIME / name).write_text('{"time": ')
    assert host.apply() == ("", 1, 1)
