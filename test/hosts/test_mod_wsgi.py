"""mod_wsgi on a host whose Apache faces the visitors: the two leave one another alone."""

import pytest
from sites import Site, version

pytestmark = pytest.mark.full

VIEW = """

def health(request):
    from django.http import JsonResponse

    names = ("REMOTE_ADDR", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "HTTP_X_FORWARDED_FOR", "mod_wsgi.version")
    body = {"secure": request.is_secure(), "size": len(request.body)}
    return JsonResponse(body | {name: str(request.META.get(name)) for name in names})


health.csrf_exempt = True
"""
APACHE, MOD_WSGI = {"kind": "apache"}, {"kind": "mod_wsgi"}


@pytest.fixture(
    scope="module",
    params=[("bookworm", "systemd"), ("trixie", "systemd"), ("bookworm", "supervisor")],
    ids=" ".join,
)
def blog(request, module_hosts, repositories) -> Site:
    system, process = request.param
    options = {} if process == "systemd" else {"init": False, "command": ("sleep", "infinity")}
    host = module_hosts(system, kind="ready", **options)
    blog = Site(host, repositories(host))
    blog.repository.append("guestbook/views.py", VIEW)
    return blog


def facing(blog: Site) -> tuple[str, str]:
    """The Apache that faces the visitors: the number of its main process, and when that began."""
    main = blog.host.read("/run/apache2/apache2.pid").strip()
    return main, blog.host.run(["ps", "-o", "lstart=", "-p", main]).stdout.strip()


def main_process(blog: Site) -> str:
    return str(blog.host.read(f"{blog.run}/pid").strip())


def modules(blog: Site) -> str:
    return str(blog.host.run(["apache2ctl", "-M"]).stdout)


def test_package_does_not_change_the_apache_of_the_host(blog):
    blog.deploy(proxy=APACHE, server={"kind": "gunicorn"})
    before = facing(blog)
    with blog.lossless():
        blog.deploy(server=MOD_WSGI)
    assert facing(blog) == before, "nobody has restarted it"
    asked = blog.host.run(["a2query", "-m", "wsgi"], check=False)
    assert "disabled by site administrator" in asked.stdout + asked.stderr and " wsgi_module" not in modules(blog)
    assert not blog.apply().changed and not blog.apply(test=True).changed


def test_project_gets_address_of_the_visitor(blog):
    forged = {"X-Forwarded-For": "203.0.113.1", "X_Forwarded_For": "203.0.113.2", "X-Forwarded-Proto": "https"}
    told = blog.get("/healthz?a=%2F&b=c%20d", headers=forged).json()
    assert told.pop("mod_wsgi.version").startswith("(")
    address = told.pop("REMOTE_ADDR")
    assert address == told.pop("HTTP_X_FORWARDED_FOR") and address not in ("127.0.0.1", "203.0.113.1", "203.0.113.2")
    expected = {"secure": False, "size": 0, "SCRIPT_NAME": "", "PATH_INFO": "/healthz", "QUERY_STRING": "a=%2F&b=c%20d"}
    assert told == expected


def test_release_loses_no_request(blog):
    blog.repository.commit(version("2"))
    with blog.lossless():
        blog.deploy()


def test_both_apaches_run_without_each_other(blog):
    own = main_process(blog)
    blog.host.run(["kill", facing(blog)[0]])
    blog.host.run("while [ -e /run/apache2/apache2.pid ]; do sleep 0.1; done")
    with pytest.raises(OSError):
        blog.get("/release")
    assert blog.deploy(), "it is started again"
    before = facing(blog)
    blog.host.run(["service", "apache2", "reload"])
    assert main_process(blog) == own and blog.answering["release"] == blog.live
    blog.host.run(["kill", "-9", own])
    blog.host.run(f"until [ $(cat {blog.run}/pid) != {own} ] && [ -e {blog.run}/ready ]; do sleep 0.1; done")
    assert facing(blog) == before and blog.answering["release"] == blog.live
    blog.host.run(["dpkg-reconfigure", "libapache2-mod-wsgi-py3"])
    assert facing(blog) == before and " wsgi_module" not in modules(blog)


def test_change_from_apache_to_nginx(blog):
    own = main_process(blog)
    blog.deploy(proxy={"kind": "nginx"})
    assert main_process(blog) == own and blog.answering["release"] == blog.live
    blog.repository.commit(version("3"))
    with blog.lossless():
        blog.deploy()
    blog.deploy(state="absent", remove_data=True)
    assert "/usr/sbin/apache2" not in blog.host.run("ps -eo args").stdout
