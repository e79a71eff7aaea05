"""Which server answers in place of a site, by nginx's and Apache's rules: the table of test/hosts/served.yaml."""

import re
from pathlib import Path

import pytest
import yaml
from django_formula.doctor import way as way_of_doctor
from django_formula.host import commands, config_files
from django_formula.host.commands import DeploymentError
from django_formula.proxy import apache, nginx, proxies, reach
from specimen import configured

WAYS = yaml.safe_load((Path(__file__).parents[2] / "hosts/served.yaml").read_text())
NGINX = [way for way in WAYS if way.get("proxy", "nginx") == "nginx"]
ADDRESS = "192.0.2.7"
MAIN = """user www-data;
events { worker_connections 768; }
http {
    types { text/html html; }
    map $x $y { default "a;{"; '~^b' "${x}{"; }
    include /etc/nginx/conf.d/*.conf;
    include /etc/nginx/sites-enabled/*;
}
stream { server { listen 80; server_name blog.example.org; } }
"""
OWN = """# Managed by the formula
server {
    listen 80;
    listen [::]:80;
    listen 443 ssl;
    server_name NAME;
}
"""


def dump(way, etc) -> str:
    """What ``nginx -T`` prints on a host with the site and what a way adds, with the paths of a folder."""
    texts = {f"sites-enabled/{name}": OWN.replace("NAME", name) for name in ("blog.example.org", "www.example.org")}
    texts |= way.get("files", {})
    main = MAIN.replace(*way["main"]) if "main" in way else MAIN
    parts = {"nginx.conf": main} | {path: texts[path].replace("ADDRESS", ADDRESS) for path in sorted(texts)}
    for path, text in parts.items():
        (etc / path).parent.mkdir(parents=True, exist_ok=True)
        (etc / path).write_text(text)
    read = [path for path in parts if path == "nginx.conf" or included(path, main, parts)]
    printed = "".join(f"# configuration file /etc/nginx/{path}:\n{parts[path]}\n" for path in read)
    return printed.replace("/etc/nginx", str(etc))


def included(path, main, parts) -> bool:
    """As nginx has it: a file that is included is printed, in whatever order."""
    text = re.sub("#.*", "", main)
    if path.startswith("sites-enabled/"):
        return "sites-enabled/*;" in text or ("sites-enabled/*.conf;" in text and path.endswith(".conf"))
    return not path.startswith("django-names/") or any("django-names" in one for one in parts.values())


@pytest.fixture
def site(own_host, monkeypatch):
    site = configured(
        "blog", domains=["blog.example.org"], redirect_domains=["www.example.org"], tls={"kind": "self_signed"}
    )
    etc = nginx.ETC
    (etc / "sites-enabled").mkdir(parents=True)
    monkeypatch.setattr(proxies, "serving", lambda site: proxies.PROXIES["nginx"])
    return site


def test_table_has_at_least_25_ways():
    assert len([way for way in WAYS if way["answers"] != "the site"]) >= 25


@pytest.mark.parametrize("way", NGINX, ids=[way["way"] for way in NGINX])
def test_nginx_has_the_server_that_wins(site, monkeypatch, way):
    etc = nginx.ETC
    monkeypatch.setattr(commands, "run", lambda argv, **_options: dump(way, etc))
    found = list(map(str, reach.rivals(site)))
    if way["answers"] == "the site":
        assert found == []
        return
    text = "; ".join(found)
    assert way["answers"] == "nothing" or f"answered by {etc}/{way['answers']}" in text, text
    assert way.get("says", "").replace("ADDRESS", ADDRESS) in text
    with pytest.raises(DeploymentError) as caught:
        reach.refuse_rivals([(site, [])])
    assert way.get("says", "").replace("ADDRESS", ADDRESS) in caught.value.message and caught.value.hint


@pytest.mark.parametrize("name", ["forum.example.org", "forum.example.org blog.example.org"])
def test_file_of_another_site_answers_as_configured_unless_the_name_was_written_into_it(site, monkeypatch, name):
    text = f"{config_files.OURS}\nserver {{ listen 127.0.0.1:80; server_name {name}; }}\n"
    way = {"files": {"sites-enabled/aforum": text}}
    monkeypatch.setattr(commands, "run", lambda argv, **_options: dump(way, nginx.ETC))
    found = [rival for rival in reach.rivals(site) if rival.domain == "blog.example.org"]
    assert [Path(rival.server.path).name for rival in found] == ["aforum"] * name.endswith("blog.example.org")
    problem = way_of_doctor.in_place_of(site)
    assert (problem and problem.command) == ("salt-call state.apply django" if found else None)


def test_what_was_there_before_refuses_nothing(site, monkeypatch):
    monkeypatch.setattr(commands, "run", lambda argv, **_options: dump(NGINX[0], nginx.ETC))
    reach.refuse_rivals([(site, reach.rivals(site))])


@pytest.mark.parametrize(
    ("name", "winner"),
    [
        ("a.b.example.org", "*.b.example.org"),
        ("c.example.org", ".example.org"),
        ("example.org", ".example.org"),
        ("mail.example.com", "mail.*"),
        ("shop7.test", "~^shop\\d+\\.test$"),
        ("else.test", "default"),
    ],
)
def test_nginx_takes_the_best_name(name, winner):
    names = ["first", "*.b.example.org", ".example.org", "mail.*", "~^shop\\d+\\.test$", "default"]
    servers = [nginx.Server("f", line, [], [one]) for line, one in enumerate(names)]
    found = nginx.chosen(servers, name, [one == "default" for one in names])
    assert found.names == [winner]


def test_text_that_is_no_configuration_is_survived():
    for text in ("", "}}}", "server {", '"', "{ ; }", "a" * 10_000, "include a;"):
        assert nginx.servers(f"# configuration file /n.conf:\n{text}") == []
    assert nginx.servers("") == []


PRINTED = """VirtualHost configuration:
*:80                   is a NameVirtualHost
         default server other.org (/etc/apache2/sites-enabled/000-other.conf:3)
         port 80 namevhost other.org (/etc/apache2/sites-enabled/000-other.conf:3)
                 alias a.org
                 wild alias *.example.com
         port 80 namevhost blog.example.org (/etc/apache2/sites-enabled/blog.conf:5)
192.0.2.7:80           lone.org (/etc/apache2/sites-enabled/lone.conf:1)
[::1]:*                is a NameVirtualHost
         default server six.org (/etc/apache2/sites-enabled/six.conf:9)
         port * namevhost six.org (/etc/apache2/sites-enabled/six.conf:9)
ServerRoot: "/etc/apache2"
Define: DUMP_VHOSTS
"""


@pytest.mark.parametrize(
    ("place", "name", "line"),
    [
        (("127.0.0.1", 80), "blog.example.org", 5),
        (("127.0.0.1", 80), "a.org", 3),
        (("127.0.0.1", 80), "x.example.com", 3),
        (("127.0.0.1", 80), "unknown.org", 3),
        (("192.0.2.7", 80), "blog.example.org", 1),
        (("::1", 80), "blog.example.org", 9),
        (("127.0.0.1", 81), "blog.example.org", None),
    ],
)
def test_apache_has_the_virtual_host_that_wins(place, name, line):
    servers = apache._virtual_hosts(PRINTED)
    found = reach.answering(proxies.PROXIES["apache"], servers, place, name)
    assert (found.line if found else None) == line
