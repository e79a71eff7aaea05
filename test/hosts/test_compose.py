"""Compose files as Docker and podman run them: production up to a page, a developer's machine, what keeps them up."""

import json
import re
import time

import pebble
import pytest
import yaml
from composing import IMPLEMENTATIONS, Composed, folder, install, install_old_python, run
from lab import ENGINE, ROOT, Host, Needs, busy

NEEDS = Needs(ENGINE, "podman and Docker run on them")

pytestmark = pytest.mark.full

BLOG = yaml.safe_load((ROOT / "test/hosts/blog_2020.yaml").read_text())
SHOP = yaml.safe_load((ROOT / "test/hosts/shop.yaml").read_text())
DOMAIN = "shop.example.org"
URL = "http://127.0.0.1:8080/"
#: Texts that may be in no image, inspection or argument; the project has them in files that no image has.
CANARIES = {
    "shop/.env": "canary-in-env-file",
    ".git/config": "canary-in-git-config",
    "certs/tls.key": "canary-in-a-key",
    "shop/db.sqlite3": "canary-in-a-database",
}


@pytest.fixture(scope="module")
def host(module_hosts) -> Host:
    host = module_hosts("trixie")
    install(host)
    host.run("useradd --create-home --shell /bin/bash --groups docker ray")
    return host


@pytest.fixture
def clean(host):
    """A host without containers and volumes, which have the password of their first start."""
    yield host
    run(host, "docker ps --all --quiet | xargs --no-run-if-empty docker rm --force")
    run(host, "podman rm --all --force --time 0")
    for engine in ("docker", "podman"):
        run(host, f"{engine} volume ls --quiet | xargs --no-run-if-empty {engine} volume rm --force")


def listening(host: Host) -> set[str]:
    """The addresses that programs of the host listen on, for TCP, and that other hosts may reach."""
    found = host.run("ss --no-header --listening --tcp --numeric | awk '{print $4}'").stdout.split()
    return {address for address in found if not address.endswith(":53")}  # of podman's names of containers


def write_shop(host: Host, path: str = "/srv/shop") -> None:
    host.run(["rm", "-rf", path])
    own = {"Dockerfile": "FROM scratch\n", ".dockerignore": "shop\n"}  # ours are in compose/
    for name, text in {**SHOP, **CANARIES, **own}.items():
        host.write(f"{path}/{name}", text)
    argv = ["/srv/formula/quickstart", "--compose", path, "--domain", DOMAIN]
    assert "written: " in host.run(argv).stdout


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_production_serves_with_database_queue_cache_worker_and_beat(clean, implementation):
    host = clean
    before = listening(host)
    write_shop(host)
    shop = Composed(host, "/srv/shop", implementation)
    shop("config -q" if shop.engine == "docker" else "config")
    shop("build")
    began = time.monotonic()
    shop("up --detach", timeout=600)
    page = shop.wait(URL, DOMAIN, 300)
    healthy = time.monotonic() - began
    print(f"{implementation}: healthy after {healthy:.1f} s")
    assert healthy < 60 * busy()
    assert re.match(r"users 0 ticks \d+", page)
    assert listening(host) - before == {"127.0.0.1:8080"}
    wait_for_tick(shop)
    assert hits(shop) == {}
    if implementation == "docker compose 2":  # 1.29 replaces no container of this engine, podman-compose all
        nginx, before_release = service_of(shop, "nginx"), app_of(shop)
        shop("up --detach --force-recreate app", timeout=600)
        shop.wait(URL, DOMAIN, 300)
        assert app_of(shop) != before_release and service_of(shop, "nginx") == nginx, "nginx serves on"
    app = app_of(shop)
    status = run(host, f"{shop.engine} exec {app} cat /proc/1/status").stdout
    assert re.search(r"^Uid:\t10001", status, re.M) and re.search(r"^CapEff:\t0+$", status, re.M)
    assert re.search(r"^NoNewPrivs:\t1$", status, re.M)
    assert run(host, f"{shop.engine} exec {app} touch /app/x", check=False).returncode != 0
    run(host, f"{shop.engine} stop {app}")
    assert run(host, f"{shop.engine} inspect --format '{{{{.State.ExitCode}}}}' {app}").stdout.strip() == "0"


def app_of(shop: Composed) -> str:
    return service_of(shop, "app").split()[0]


def service_of(shop: Composed, name: str) -> str:
    """Return the container of a service, and when it has started."""
    format = '{{.Id}} {{.State.StartedAt}} {{index .Config.Labels "com.docker.compose.service"}}'
    found = run(shop.host, f"{shop.engine} inspect --format '{format}' {' '.join(shop.containers())}").stdout
    return next(line.rpartition(" ")[0] for line in found.splitlines() if line.endswith(f" {name}"))


def wait_for_tick(shop: Composed) -> None:
    """Wait until a task that beat sends was done by the worker, and its result is in the cache that the app reads."""
    for _second in range(300):
        page = shop.wait(URL, DOMAIN, 300)
        if int(page.split()[-1]) >= 2:
            return
        time.sleep(1)
    raise AssertionError(shop("logs worker beat").stdout[-3000:])


def hits(shop: Composed) -> dict[str, list[str]]:
    """Where a secret of the files, or a canary, is found: layers, inspection, history, arguments."""
    host, engine = shop.host, shop.engine
    environment = host.read("/srv/shop/.envs/production")
    secrets = [*re.findall(r'(?:KEY|SALT)="(\w+)"', environment), host.read("/srv/shop/.envs/database_password")]
    assert len(secrets) == 2
    words = [*secrets, *CANARIES.values()]
    image = "localhost/shop:production"
    host.run("rm -rf /srv/saved && mkdir /srv/saved")
    run(host, f"{engine} save {image} | tar -x -C /srv/saved")
    ids = " ".join(shop.containers())
    texts = {
        "inspect": run(host, f"{engine} inspect {image} {ids}").stdout,
        "history": run(host, f"{engine} history --no-trunc {image}").stdout,
        "arguments": host.run("ps axww -o args").stdout,
    }
    assert "gunicorn" in texts["arguments"]
    found = {where: [word for word in words if word in text] for where, text in texts.items()}
    host.write("/srv/words", "\n".join(words))
    grep = host.run("grep -rFl -f /srv/words /srv/saved", check=False).stdout.split()
    assert host.run("grep -rFl 'users {' /srv/saved", check=False).stdout, "layers are not compressed"
    return {where: told for where, told in {**found, "layers": grep}.items() if told}


def test_a_developer_without_root_and_salt_sees_a_change(clean):
    host = clean
    host.run("rm -rf /home/ray/*; cp -r /srv/formula/examples/project /home/ray/origin")
    git = "git -c user.name=r -c user.email=r@example.org"
    host.run(
        f"cd /home/ray/origin && git init -q -b main && {git} add . && {git} commit -q -m 1; chown -R ray /home/ray"
    )
    command = "/srv/formula/quickstart --compose /home/ray/blog --repository /home/ray/origin"
    hidden = "salt-call() { false; }; export -f salt-call; export HOME=/home/ray; "
    told = host.run(f"{hidden}{command}", user="ray").stdout
    assert "written: " in told
    blog = Composed(host, "/home/ray/blog", "docker compose 2", "local", user="ray")
    blog("build")
    blog("up --detach")
    page = ["curl", "--silent", "http://127.0.0.1:8000/changed"]
    for _try in range(600):
        if host.run([*page[:-1], "--write-out", "%{http_code}", "http://127.0.0.1:8000/"], check=False).stdout.endswith(
            "200"
        ):
            break
        time.sleep(0.5)
    view = "\n\ndef changed(request):\n    from django.http import HttpResponse\n\n    return HttpResponse('CHANGED')\n"
    urls = "\n\nfrom guestbook import views\nurlpatterns.append(path('changed', views.changed))\n"
    host.run(["bash", "-c", "cat >>/home/ray/blog/guestbook/views.py"], stdin=view)
    began = time.monotonic()
    host.run(["bash", "-c", "cat >>/home/ray/blog/website/urls.py"], stdin=urls)
    while "CHANGED" not in host.run(page, check=False).stdout:
        assert time.monotonic() - began < 300, blog("logs app").stdout[-2000:]
        time.sleep(0.1)
    changed = time.monotonic() - began
    print(f"a changed view after {changed:.1f} s")
    assert changed < 20 * busy()
    mail = blog("exec -T app /srv/start python manage.py sendtestemail a@example.org").stdout
    assert "Subject: Test email from" in mail
    assert host.run("find /home/ray/blog ! -user ray").stdout == ""
    assert host.run("find /home/ray/blog/.envs -type f -printf '%m\n' | sort -u").stdout == "600\n"


def test_a_blog_of_2020_with_a_pipfile_lock(clean):
    """`setuptools<81` is found by itself: django-haystack imports pkg_resources, and no package requires it."""
    host = clean
    host.run(["rm", "-rf", "/srv/blog"])
    for name, text in BLOG.items():
        host.write(f"/srv/blog/{name}", text)
    told = host.run(["/srv/formula/quickstart", "--compose", "/srv/blog", "--domain", "blog.example.org"]).stdout
    assert told.startswith("written: ") and len(told.splitlines()) == 1, told
    (tag,) = re.findall(r"^FROM docker.io/library/python:(\S+) AS base", host.read("/srv/blog/Dockerfile"), re.M)
    install_old_python(host, tag)
    blog = Composed(host, "/srv/blog", "docker compose 2")
    blog("build")
    blog("up --detach")
    assert blog.wait(URL, "blog.example.org", 300) == "posts 0, searched by haystack"
    listed = blog('exec -T app python -c "import setuptools; print(setuptools.__version__)"').stdout
    assert int(listed.split(".")[0]) < 81


@pytest.mark.parametrize("manager", ["systemd", "supervisor"])
def test_the_examples_of_what_keeps_production_up(clean, manager):
    host = clean
    host.run(["rm", "-rf", "/srv/blog"])
    host.send(folder(ROOT / "examples/project"), "/srv/blog")
    host.run(["/srv/formula/quickstart", "--compose", "/srv/blog", "--domain", "blog.example.org"])
    blog = Composed(host, "/srv/blog", "docker compose 2")
    blog("build")
    example = ROOT / "examples/compose" / {"systemd": "blog.service", "supervisor": "blog.conf"}[manager]
    place = {"systemd": "/etc/systemd/system/blog.service", "supervisor": "/etc/supervisor/conf.d/blog.conf"}[manager]
    host.write(place, example.read_text())
    start, stop = {
        "systemd": ("systemctl daemon-reload && systemctl enable --now blog", "systemctl stop blog"),
        "supervisor": ("supervisorctl update && supervisorctl start blog || true", "supervisorctl stop blog"),
    }[manager]
    began = time.monotonic()
    host.run(start, timeout=300)
    blog.wait(URL, "blog.example.org", 300)
    print(f"{manager}: healthy after {time.monotonic() - began:.1f} s")
    containers = blog.containers()
    assert len(containers) == 2
    host.run(stop, timeout=150)
    assert blog.containers() == []
    found = json.loads(run(host, f"docker inspect {' '.join(containers)}").stdout)
    assert {one["State"]["ExitCode"] for one in found} == {0}
    host.run({"systemd": "systemctl disable --now blog", "supervisor": "true"}[manager])
    host.run(["rm", place])


OVERRIDE = """\
services:
  certificates:
    extra_hosts: ["acme.example.org:172.17.0.1"]
    environment: {REQUESTS_CA_BUNDLE: /trusted.pem}
    volumes: ["/etc/pebble/trusted.pem:/trusted.pem:ro"]
"""


def test_a_certificate_replaces_the_self_signed_one(clean):
    host = clean
    before = listening(host)
    pebble.start(host, rejected=0, httpPort=8080, externalAccountBindingRequired=False)
    host.run(["rm", "-rf", "/srv/blog"])
    host.send(folder(ROOT / "examples/project"), "/srv/blog")
    options = ["--domain", "blog.example.org", "--certificates", "ray@example.org"]
    host.run(["/srv/formula/quickstart", "--compose", "/srv/blog", *options])
    host.write("/srv/blog/test.yml", OVERRIDE)
    host.write("/srv/blog/.env", f"ACME_DIRECTORY={pebble.DIRECTORY}\n")
    blog = Composed(host, "/srv/blog", "docker compose 2")
    blog.file += " -f test.yml"
    blog("build")
    blog("up --detach")
    blog.wait("https://127.0.0.1:8443/", "blog.example.org", 120)
    ours = {address for address in listening(host) - before if address.endswith((":8080", ":8443"))}
    assert ours == {"127.0.0.1:8080", "127.0.0.1:8443"}
    plain = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code} %{redirect_url}"]
    told = host.run([*plain, "--header", "Host: blog.example.org", URL + "x?y"]).stdout
    assert told == "301 https://blog.example.org/x?y"
    ask = "openssl s_client -connect 127.0.0.1:8443 -servername blog.example.org </dev/null 2>/dev/null"
    began = time.monotonic()
    while "Pebble" not in host.run(f"{ask} | openssl x509 -noout -issuer", check=False).stdout:
        assert time.monotonic() - began < 600, blog("logs certificates").stdout[-3000:]
        time.sleep(1)
    print(f"certified after {time.monotonic() - began:.1f} s")


def test_the_verb_writes_into_the_folder_of_a_user(clean):
    host = clean
    host.run("rm -rf /srv/git /home/ray/*; cp -r /srv/formula/examples/project /srv/git")
    git = "git -c user.name=r -c user.email=r@example.org"
    host.run(f"cd /srv/git && git init -q -b main && {git} add . && {git} commit -q -m 1")
    site = {"repository": "/srv/git", "domains": ["a.example.org"], "health": {"path": "/healthz"}}
    host.pillar({"django": {"sites": {"blog": site}}})
    assert host.apply().ok
    host.run("cp -r /srv/formula/examples/project /home/ray/blog; chown -R ray: /home/ray/blog")
    told = host.call("django.compose", "blog", "/home/ray/blog")
    assert told.startswith("written: .envs/.gitignore, .envs/production")
    assert host.run("find /home/ray/blog ! -user ray").stdout == ""
    assert 'ALLOWED_HOSTS = ["a.example.org"]' in host.read("/home/ray/blog/compose/settings_production.py")
    assert host.call("django.compose", "blog", "/home/ray/blog") == "nothing had to be written"
    missing = host.salt("django.compose", "blog", "/nonexistent")
    assert missing.returncode == 1 and "/nonexistent is not a folder" in missing.stdout
