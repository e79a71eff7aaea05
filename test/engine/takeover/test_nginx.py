"""What others have told nginx, as cases: a text in one of its files, and what is read in it."""

from pathlib import Path

import pytest
from django_formula.host import config_files
from django_formula.proxy import nginx as proxy_nginx
from django_formula.takeover import nginx as takeover_nginx
from django_formula.takeover import virtual_hosts
from django_formula.takeover.virtual_hosts import VirtualHost


@pytest.fixture
def read(own_host):
    """Put a text into a file of nginx, and read the servers in it."""

    def read(text: str, name: str = "sites-enabled/old") -> list[VirtualHost]:
        path = proxy_nginx.ETC / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return takeover_nginx.virtual_hosts()[path]

    return read


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("server {\n  server_name a.org\n    blog.example.org;\n}", [["a.org", "blog.example.org"]]),
        ('server { server_name "blog.example.org"; }', [["blog.example.org"]]),
        ("server { server_name 'blog.example.org'; }", [["blog.example.org"]]),
        ("server { server_name Blog.Example.org WWW.example.org; }", [["blog.example.org", "www.example.org"]]),
        ('server { server_name ""; }', [['""']]),
        ("server { listen 80; }", [[]]),
        ("server { server_name www.example.org; }\nserver{server_name b.org;}", [["www.example.org"], ["b.org"]]),
        ("http { server { location / { return 404; } server_name b.org; } }", [["b.org"]]),
        ("# server { server_name blog.example.org; }", []),
        (f"{config_files.OURS} for it.\nserver {{ server_name blog.example.org; }}", []),
        ("map $host $x { blog.example.org 1; }", []),
        ("upstream app { server 127.0.0.1:8000; }", []),
    ],
)
def test_names_of_server_blocks(read, text, names):
    assert [server.names for server in read(text)] == names


def test_all_files_of_nginx_read(read):
    for name in ("nginx.conf", "conf.d/a.conf", "sites-available/b", "sites-enabled/b"):
        assert len(read("server { listen 80; }", name)) == 1
    (proxy_nginx.ETC / "sites-enabled/lost").symlink_to("../sites-available/lost")
    found = {
        str(path.relative_to(proxy_nginx.ETC)): len(inside) for path, inside in takeover_nginx.virtual_hosts().items()
    }
    there = {"nginx.conf": 1, "conf.d/a.conf": 1, "sites-available/b": 1, "sites-enabled/b": 1}
    assert found == {**there, "sites-enabled/lost": 0}


@pytest.mark.parametrize(
    ("passed", "address"),
    [
        ("proxy_pass http://127.0.0.1:8000;", "127.0.0.1:8000"),
        ("proxy_pass http://localhost:8000/;", "127.0.0.1:8000"),
        ('proxy_pass "http://127.0.0.1:8000";', "127.0.0.1:8000"),
        ("uwsgi_pass 'unix:/tmp/a.socket';", "/tmp/a.socket"),
        ("proxy_pass http://unix:/tmp/a.socket;", "/tmp/a.socket"),
        ("proxy_pass http://unix:/tmp/a.socket:/path;", "/tmp/a.socket"),
        ("uwsgi_pass unix:///run/a.sock;", "/run/a.sock"),
        ("uwsgi_pass 127.0.0.1:3031;", "127.0.0.1:3031"),
        ("proxy_pass http://app;", "/run/up.sock"),
        ("proxy_pass http://app/;", "/run/up.sock"),
        ("proxy_pass https://elsewhere.example.org;", None),
        ("proxy_pass http://192.0.2.1:8000;", None),
    ],
)
def test_addresses_of_virtual_host(read, passed, address):
    upstream = "upstream app { server unix:/run/up.sock fail_timeout=0; }\n"
    (server,) = read(f"{upstream}server {{ server_name blog.example.org; location / {{ {passed} }} }}")
    assert server.addresses == ([address] if address else [])


def test_hash_in_a_word_begins_no_comment(read):
    inside = "location /a { return 301 /#/a; } location / { proxy_pass http://127.0.0.1:8000; } # not {"
    (server, other) = read(f"server {{ server_name blog.example.org; {inside}\n}} server {{ server_name b.org; }}")
    assert server.addresses == ["127.0.0.1:8000"] and server.names == ["blog.example.org"] and other.names == ["b.org"]


def test_include_of_server_block_read(read, tmp_path):
    (tmp_path / "site.conf").write_text("location / { proxy_pass http://127.0.0.1:8000; }")
    (proxy_nginx.ETC / "snippets").mkdir()
    (proxy_nginx.ETC / "snippets/a.conf").write_text("# listen 81;\nlocation /static/ { alias /srv/static/; }")
    includes = f"include {tmp_path}/site.conf; include 'snippets/*.conf'; include gone.conf; include proxy_params;"
    (server,) = read(f"server {{ server_name blog.example.org; {includes} }}")
    assert server.addresses == ["127.0.0.1:8000"] and server.folders == {"/static/": Path("/srv/static")}
    assert read("http { include sites-enabled/*; }", "nginx.conf") == []


def test_folders_of_virtual_host(read):
    (server,) = read("server { location /static { alias /srv/static/; } location ^~ /media/ { root /srv/up; } }")
    assert server.folders == {"/static": Path("/srv/static"), "/media/": Path("/srv/up/media")}
    (server,) = read("""server { location /static { alias '/srv/static/'; } location /media/ { root "/srv/up"; } }""")
    assert server.folders == {"/static": Path("/srv/static"), "/media/": Path("/srv/up/media")}


@pytest.mark.parametrize(
    ("inside", "folders"),
    [
        (
            "location /media/ { alias /srv/up/; location ~ \\.php$ { deny all; } }",
            {"/media/": "/srv/up"},
        ),
        ("location /media/ { types { } default_type text/plain; root /srv; }", {"/media/": "/srv/media"}),
        ("location / { location /media/ { alias /srv/up/; } proxy_pass http://app; }", {"/media/": "/srv/up"}),
        ("root /srv/www; location /media/ { expires 30d; }", {"/media/": "/srv/www/media"}),
        ("location /files { root /srv/www; location /files/media { expires 30d; } }",
         {"/files": "/srv/www/files", "/files/media": "/srv/www/files/media"}),
        ("location ~ ^/media/(.*)$ { alias /srv/up/$1; }", {"^/media/(.*)$": "/srv/up"}),
        ("root /srv/www; location /media/ { proxy_pass http://app; } location /x { return 404; }", {}),
    ],
)  # fmt: skip
def test_folders_of_nested_locations_and_of_the_server(read, inside, folders):
    (server,) = read(f"server {{ server_name blog.example.org; {inside} }}")
    assert server.folders == {location: Path(folder) for location, folder in folders.items()}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("listen 80; server_name blog.example.org;", None),
        ("server_name blog.example.org _ localhost;", None),
        ("server_name .blog.example.org;", None),
        ("listen [::]:80; server_name blog.example.org;", None),
        ("listen 80; server_name blog.example.org www.example.org;", "also serves www.example.org"),
        ("listen 443 ssl; server_name blog.example.org;", "serves https"),
        ("listen 443; ssl on; server_name blog.example.org;", "set django:sites:blog:tls to"),
        ("listen 8080; server_name blog.example.org;", "listens on 8080"),
    ],
)
def test_virtual_host_refused_for_unconfigured_ports_and_names(read, make_site, text, reason):
    path = proxy_nginx.ETC / "sites-enabled/old"
    told = virtual_hosts.refusals(make_site(folders=False), path, read(f"server {{ {text} }}"))
    assert [str(reason) in problem for problem in told] == ([True] if reason else [])


def test_file_with_https_accepted_when_site_has_https(read, make_site):
    path, site = proxy_nginx.ETC / "sites-enabled/old", make_site(folders=False, tls={"kind": "self_signed"})
    assert [*virtual_hosts.refusals(site, path, read("server { listen 443 ssl; server_name blog.example.org; }"))] == []
    other = read("server { listen 8443 ssl; server_name blog.example.org; }")
    assert [*virtual_hosts.refusals(site, path, other)] == [
        f"{path} serves https on 8443: add that to django:sites:blog:tls:listen"
    ]


def test_refused_when_main_file_has_virtual_host(read, make_site):
    path = proxy_nginx.ETC / "nginx.conf"
    inside = read("http { server { server_name blog.example.org; } }", "nginx.conf")
    (problem,) = virtual_hosts.refusals(make_site(folders=False), path, inside)
    assert "move that to a file of its own" in problem
