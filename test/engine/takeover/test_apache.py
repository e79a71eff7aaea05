"""What others have told Apache, as cases: a text in one of its files, and what is read in it."""

from pathlib import Path

import pytest
from django_formula.host import config_files
from django_formula.proxy import apache as proxy_apache
from django_formula.takeover import apache as takeover_apache
from django_formula.takeover import virtual_hosts
from django_formula.takeover.virtual_hosts import VirtualHost

#: A virtual host as the handbooks of Django and mod_wsgi have it, and certbot's copy of it.
WSGI = """
<VirtualHost *:80>
    ServerName blog.example.org
    ServerAlias www.blog.example.org
    Alias /static /srv/blog/static
    Alias "/media/" "/srv/blog/uploads/"
    <Directory /srv/blog/static>
        Require all granted
    </Directory>
    WSGIDaemonProcess blog user=elspeth group=www-data \\
        python-home=/srv/blog/venv python-path=/srv/blog/src:/srv/blog/lib
    WSGIProcessGroup blog
    WSGIScriptAlias / /srv/blog/src/website/wsgi.py
</VirtualHost>
"""


@pytest.fixture
def read(own_host):
    """Put a text into a file of Apache, and read the virtual hosts in it."""

    def read(text: str, name: str = "sites-enabled/old.conf") -> list[VirtualHost]:
        path = proxy_apache.ETC / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return takeover_apache.virtual_hosts()[path]

    return read


def host(inside: str, place: str = "*:80") -> str:
    return f"<VirtualHost {place}>\nServerName blog.example.org\n{inside}\n</VirtualHost>\n"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("<VirtualHost *:80>\n  ServerName a.org\n  serveralias blog.example.org b.org\n</VirtualHost>", 3),
        ('<virtualhost *:80>\nServerName "https://blog.example.org:443"\n</virtualhost>', 1),
        ("<VirtualHost *:80>\nServerAlias blog.example.org \\\n  b.org\n</VirtualHost>", 2),
        ("<IfModule mod_ssl.c>\n<VirtualHost *:443>\nServerName blog.example.org\n</VirtualHost>\n</IfModule>", 1),
        ("<VirtualHost *:80>\n# ServerName blog.example.org\n</VirtualHost>", 0),
    ],
)
def test_names_of_virtual_hosts(read, text, names):
    (server,) = read(text)
    assert len(server.names) == names and ("blog.example.org" in server.names) == bool(names)


@pytest.mark.parametrize("text", [f"{config_files.OURS} for it.\n{host('')}", "ServerName blog.example.org\n"])
def test_own_files_and_unnamed_hosts_ignored(read, text):
    assert read(text) == []


@pytest.mark.parametrize(
    ("place", "ports"),
    [("*:80", [80]), ("*", [80]), ("_default_:8080 [::]:8081", [8080, 8081]), ("[::1]", [80]), ('"*:443"', [443])],
)
def test_ports_of_virtual_host(read, place, ports):
    assert read(host("", place))[0].ports == ports


@pytest.mark.parametrize(
    ("inside", "is_secure"), [("SSLEngine on", True), ("SSLCertificateFile /x.pem", True), ("SSLEngine off", False)]
)
def test_tls_of_virtual_host(read, inside, is_secure):
    assert read(host(inside, "*:443"))[0].tls is is_secure


@pytest.mark.parametrize(
    ("passed", "addresses"),
    [
        ("ProxyPass / http://127.0.0.1:8000/", ["127.0.0.1:8000"]),
        ("ProxyPass /static !\nProxyPass / http://localhost:8000/ retry=0", ["127.0.0.1:8000"]),
        ("<Location />\n  ProxyPass http://[::1]:8000/\n</Location>", ["127.0.0.1:8000"]),
        ('ProxyPass / "unix:/tmp/a.socket|http://localhost/"', ["/tmp/a.socket"]),
        ("ProxyPassMatch ^/(.*)$ http://127.0.0.1:8000/$1", ["127.0.0.1:8000"]),
        ("RewriteRule ^/(.*)$ http://127.0.0.1:8000%{REQUEST_URI} [P,L]", ["127.0.0.1:8000"]),
        ("RewriteRule ^/(.*)$ http://127.0.0.1:8000/$1 [proxy,L]", ["127.0.0.1:8000"]),
        ('SetHandler "proxy:unix:/run/php/php8.2-fpm.sock|fcgi://localhost/"', []),
        ("RewriteRule ^ https://blog.example.org%{REQUEST_URI} [R=permanent,END]", []),
        ('SetHandler "proxy:unix:/run/a.sock|uwsgi://a/"', ["/run/a.sock"]),
        ("ProxyPass / uwsgi://127.0.0.1:3031/", ["127.0.0.1:3031"]),
        ("ProxyPass / balancer://app/", ["127.0.0.1:8001", "/run/up.sock"]),
        ("ProxyPass /ws ws://127.0.0.1:8000/ws\nProxyPass / http://127.0.0.1:8000/", ["127.0.0.1:8000"]),
        ("ProxyPass / http://192.0.2.1:8000/", []),
        ("ProxyPass / http://elsewhere.example.org/", []),
        ("ProxyPass / balancer://unknown/", []),
        ("Header set X-Note it's", []),
    ],
)
def test_addresses_of_virtual_host(read, passed, addresses):
    members = "BalancerMember http://127.0.0.1:8001\nBalancerMember unix:/run/up.sock|http://up"
    balancer = f"<Proxy balancer://app>\n{members}\n</Proxy>\n"
    (server,) = read(balancer + host(passed))
    assert server.addresses == addresses and server.wsgi_user == ""


def test_mod_wsgi_directives_read(read):
    (server,) = read(WSGI)
    assert server.wsgi_user == "elspeth" and server.addresses == []
    assert server.folders == {"/static": Path("/srv/blog/static"), "/media/": Path("/srv/blog/uploads")}
    below = ("src/website", "venv", "src", "lib")
    assert server.wsgi_folders == tuple(Path("/srv/blog", name) for name in below)


def test_folders_found_in_wsgi_script(read, tmp_path):
    (tmp_path / "blog.wsgi").write_text("import sys\nsys.path.insert(0, '/srv/blog/src')\n")
    (server,) = read(host(f"WSGIScriptAliasMatch ^/app {tmp_path}/blog.wsgi"))
    assert server.wsgi_folders == (tmp_path, Path("/srv/blog/src"))


def test_folder_of_wsgi_scripts_is_no_script(read, tmp_path):
    (server,) = read(host(f"WSGIScriptAlias /scripts/ {tmp_path}/scripts/"))
    (tmp_path / "scripts").mkdir()
    (server,) = read(host(f"WSGIScriptAlias /scripts/ {tmp_path}/scripts/"))
    assert server.wsgi_folders == (tmp_path,)


@pytest.mark.parametrize(
    "text", ["Alias /static", "WSGIScriptAlias /", "ServerName", "ProxyPass\nRewriteRule", 'Alias "/x']
)
def test_invalid_directives_ignored(read, text):
    """As in a file that is not enabled."""
    (server,) = read(host(text))
    assert server.names == ["blog.example.org"] and server.addresses == [] and server.folders == {}


def test_include_of_virtual_host_read(read, tmp_path):
    for name in ("wsgi.inc", "more/a.conf", "more/b.conf"):
        (proxy_apache.ETC / name).parent.mkdir(parents=True, exist_ok=True)
    (proxy_apache.ETC / "wsgi.inc").write_text("# Alias /x /y\nWSGIScriptAlias / /srv/blog/website/wsgi.py")
    (proxy_apache.ETC / "more/a.conf").write_text("Alias /static /srv/static")
    (proxy_apache.ETC / "more/b.conf").write_text("ProxyPass /api http://127.0.0.1:9000/")
    (tmp_path / "ssl.conf").write_text("SSLEngine on\n")
    inside = f'Include wsgi.inc\nIncludeOptional more/*.conf\nInclude "{tmp_path}/ssl.conf"\nInclude nothing/*.conf'
    (server,) = read(host(inside))
    assert (server.wsgi_user, server.addresses, server.tls) == ("www-data", ["127.0.0.1:9000"], True)
    assert server.folders == {"/static": Path("/srv/static")} and server.wsgi_folders == (Path("/srv/blog/website"),)


def test_includes_of_main_file_counted_once(read):
    read(host(""))
    assert read("IncludeOptional sites-enabled/*.conf\n", "apache2.conf") == []


def test_daemon_of_another_file_and_embedded_mode(read):
    read("WSGIDaemonProcess blog user=ray home=/srv/ray\nWSGIPythonHome /srv/venv", "conf-enabled/wsgi.conf")
    (told,) = read(host("WSGIScriptAlias / /srv/blog/website/wsgi.py process-group=blog"))
    assert told.wsgi_user == "ray" and told.wsgi_folders == (Path("/srv/blog/website"), Path("/srv/ray"))
    (embedded,) = read(host("WSGIScriptAlias / /srv/blog/website/wsgi.py"))
    assert embedded.wsgi_user == "www-data" and embedded.wsgi_folders[1:] == (Path("/srv/venv"),)
    (proxy_apache.ETC / "envvars").write_text("export APACHE_RUN_USER=apache\n")
    assert read(host("WSGIScriptAlias / /srv/blog/website/wsgi.py"))[0].wsgi_user == "apache"


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        (host(""), "sites-enabled/old.conf", None),
        (host("", "*:8080"), "sites-enabled/old.conf", "listens on 8080"),
        (host("SSLEngine on", "*:443"), "sites-enabled/old.conf", "set django:sites:blog:tls to"),
        (host("ServerAlias other.example.org"), "sites-enabled/old.conf", "also serves other.example.org"),
        (host(""), "apache2.conf", "move that to a file of its own"),
    ],
)
def test_virtual_host_refused_for_unconfigured_ports_and_names(read, make_site, text, name, reason):
    told = virtual_hosts.refusals(make_site(folders=False), proxy_apache.ETC / name, read(text, name))
    assert [str(reason) in problem for problem in told] == ([True] if reason else [])


TAKEN = "sites-enabled/old.conf"


def refused(read, text, **files):
    """What is said where a file of the site has a text, and others, by the folder that they are in, have theirs."""
    read(text, TAKEN)
    for folder, content in files.items():
        read(content, f"{folder.replace('_', '-')}/other.conf")
    problems = takeover_apache.refusals([proxy_apache.ETC / TAKEN], [Path("/srv/blog/src")])
    return [problem.removeprefix(f"{proxy_apache.ETC}/") for problem in problems]


def test_other_apache_files_accepted(read):
    other = "WSGIDaemonProcess other python-path=/srv/other:/srv/other/src\n" + host("WSGIProcessGroup other")
    assert refused(read, WSGI, sites_enabled=other, sites_available=f"Listen 8080\n{WSGI}") == []
    balancer = "<Proxy balancer://app>\nBalancerMember http://127.0.0.1:1\n</Proxy>\n"
    assert refused(read, balancer + host("ProxyPass / balancer://app/"), sites_enabled=other) == []
    assert refused(read, f"WSGIPythonPath /srv/blog\n{WSGI}", sites_enabled=other) == [], "nobody else is embedded"


@pytest.mark.parametrize(
    ("text", "other", "needed"),
    [
        ("Listen 8080", "", "Listen"),
        ("LoadModule x /x.so\nDefine Y z", "", "LoadModule, Define"),
        ("WSGIDaemonProcess both", host("WSGIProcessGroup both"), "WSGIDaemonProcess both"),
        ("WSGIDaemonProcess both", host("WSGIScriptAlias / /x.py process-group=both"), "WSGIDaemonProcess both"),
        ("<Proxy balancer://app>\n</Proxy>", host("ProxyPass / balancer://app/"), "balancer://app"),
        ("WSGIPythonHome /x", host("WSGIScriptAlias / /x.py"), "WSGIPythonHome or WSGIPythonPath"),
    ],
)
def test_refused_when_other_files_need_directive(read, text, other, needed):
    told = refused(read, f"{text}\n{host('')}", sites_enabled=other)
    assert told == [f"{TAKEN} has {needed}, which other files may need: move that to a file that stays"]


@pytest.mark.parametrize(
    ("folder", "text"),
    [
        ("conf-enabled", "WSGIScriptAlias / /srv/blog/src/website/wsgi.py"),
        ("mods-enabled", "LoadModule wsgi_module /srv/blog/src/env/mod_wsgi.so"),
        ("mods-enabled", "WSGIPythonHome /srv/blog/src/env"),
        ("sites-enabled", host("WSGIDaemonProcess x python-path=/srv/other:/srv/blog/src")),
    ],
)
def test_refused_when_other_file_names_existing_paths(read, folder, text):
    (problem,) = refused(read, WSGI, **{folder: text})
    assert problem.startswith(f"{folder}/other.conf names paths of the existing deployment too")


@pytest.mark.parametrize("name", ["${SITE}", "Blog.Example.ORG"])
def test_domain_read_from_define_and_in_lower_case(read, name):
    read("Define SITE blog.example.org", "conf-enabled/site.conf")
    assert read(WSGI.replace("blog.example.org", name, 1))[0].names[0] == "blog.example.org"
