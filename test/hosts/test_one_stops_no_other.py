"""A site stops no other one of its host: by its releases, or as a hostile one by attacks on releases and applies.

Each release of the neighbour is measured alone and under attack, in turns, so that a busy machine counts for both.
The attacks leave CPU time to others: a container has no cgroups by which `resources` could limit that.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from attacker import HOSTILE, program
from client import Load
from conftest import live_site
from sites import Site, release_of, version

#: Folders that all sites of a host share, with their sizes here: this machine's memory is not for the test to fill.
SHARED = {"/run": "64m", "/tmp": "64m", "/dev/shm": "32m"}
#: The disk of the hostile site, as a quota would limit it.
DISK = "400m"
#: How much longer a release of the neighbour may take, and seconds of noise.
FACTOR, NOISE = 1.5, 4.0
#: Rounds of a release alone and one next to the attack, of which one has to be within these bounds.
ROUNDS = 3
START, DRAIN = 15, 3
#: Seconds that an apply of all sites may take longer than the timeouts of the hostile one.
SPARE = 30

_PRELUDE = """
import glob, os, socket, time
def fill(folders):
    number = 0
    while True:
        for folder in folders:
            try:
                with open("%s/fill-%d-%d" % (folder, os.getpid(), number), "wb") as file:
                    file.write(bytes(4096 if number % 2 else 1 << 20))
            except OSError:
                time.sleep(0.01)
        time.sleep(0.001)
        number += 1
def tell(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        address = os.environ.get("NOTIFY_SOCKET", "/run/systemd/notify")
        one.connect("\\0" + address[1:] if address[0] == "@" else address)
        one.send(text)
"""
_FILL = "detached(lambda: fill({}))"
#: What the hostile site does in its live web process, until its unit is restarted.
ATTACKS = {
    "its folder": _FILL.format('glob.glob("/run/django-mallory-*") + glob.glob("/srv/django/mallory/runtime/*")'),
    "/run": _FILL.format('[path for path, *_ in os.walk("/run") if os.access(path, os.W_OK)]'),
    "/tmp": _FILL.format('["/tmp", "/var/tmp"]'),
    "/dev/shm": _FILL.format('["/dev/shm"]'),
    "its disk": _FILL.format('["/srv/django/mallory/media", "/srv/django/mallory/shared"]'),
    "the journal": """
def work():
    while True:
        os.write(2, (b"x" * 100 + b"\\n") * 100)
        time.sleep(0.02)
detached(work, keep_output=True)
""",
    "processes": """
def work():
    for _ in range(300):
        try:
            if not os.fork():
                time.sleep(3600)
        except OSError:
            time.sleep(0.1)
    time.sleep(3600)
detached(work)
""",
    "messages to systemd": """
def work():
    while True:
        tell(b"STATUS=" + b"x" * 500)
detached(work)
""",
}
#: A module that its web server imports: the main process of the unit extends each timeout, and never ends by itself.
EXTENDS = """
import atexit, os, threading, time
try:
    import uwsgi
except ImportError:
    uwsgi = None
{prelude}
def extend():
    while True:
        tell(b"EXTEND_TIMEOUT_USEC=600000000")
        time.sleep(1)
def never():
    while True:
        time.sleep(1)
if uwsgi:
    threading.Thread(target=extend, daemon=True).start()
    {when}
"""


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    """The neighbour, on a host whose shared folders are small."""
    blog = live_site(module_hosts, repositories)
    for folder, size in SHARED.items():
        blog.host.mount("-o", f"remount,size={size}", folder)
    return blog


@pytest.fixture(scope="module")
def hostile(blog, repositories) -> Site:
    """The hostile site, live, on a disk of its own."""
    blog.host.run("mkdir -p /srv/django/mallory")
    blog.host.mount("-t", "tmpfs", "-o", f"size={DISK},mode=755", "none", "/srv/django/mallory")
    mallory = Site(
        blog.host,
        repositories(blog.host, "/srv/git/mallory.git"),
        "mallory",
        neighbour=blog,
        timeouts={"start": f"{START}s"},
        releases={"drain": f"{DRAIN}s", "keep": 2},
    )
    urls = mallory.repository.read("website/urls.py")
    own = "from . import evil\nurlpatterns = [path('evil', evil.run),"
    mallory.repository.commit(
        {
            "website/evil.py": (HOSTILE / "evil.py").read_text(),
            "website/urls.py": urls.replace("urlpatterns = [", own),
        }
    )
    mallory.deploy()
    return mallory


@contextmanager
def under(site: Site, attack: str) -> Iterator[None]:
    """Have the web process of a site do this meanwhile."""
    text = program(_PRELUDE + attack)
    response = site.host.http("/evil", site.domain, "POST", data=text.encode(), timeout=60)
    assert response.status_code == 200, response.text
    time.sleep(3)
    try:
        yield
    finally:
        site.host.run(f"systemctl kill --signal=SIGKILL {site.unit}.service; pkill -KILL -u {site.name}", check=False)
        site.host.run(
            f"find /tmp /var/tmp /dev/shm /run {site.root}/runtime {site.root}/media {site.root}/shared "
            "-name 'fill-*' -delete",
            check=False,
        )


def load(site: Site) -> Load:
    """About twenty requests a second."""
    return Load(
        f"http://{site.host.address}:{site.port}/release", site.domain, connections=4, pause=0.2, release=release_of
    )


def seconds_of_a_release(site: Site, number: str) -> float:
    """Release a commit that changes nothing but code, and return how long that takes."""
    site.repository.commit(version(number))
    began = time.monotonic()
    site.host.call("django.release", site.name)
    taken = time.monotonic() - began
    assert site.answering["version"] == number
    return taken


def assert_not_delayed(blog: Site, hostile: Site, attack: str) -> None:
    """Release the neighbour in turns alone and next to an attack; none of its requests may fail."""
    measured = []
    for turn in range(ROUNDS):
        base = f"{len(blog.releases)}.{time.time():.0f}.{turn}"
        alone = seconds_of_a_release(blog, f"{base}.1")
        with under(hostile, attack), load(blog) as requests:
            requests.wait(20)
            attacked = seconds_of_a_release(blog, f"{base}.2")
            requests.wait(20)
        assert requests.failed == []
        measured.append((round(alone, 2), round(attacked, 2)))
        if attacked <= max(alone * FACTOR, alone + NOISE):
            break
    print(f"seconds of a release alone and under attack: {measured}")
    assert any(attacked <= max(alone * FACTOR, alone + NOISE) for alone, attacked in measured), measured


@pytest.mark.full
def test_a_site_that_fills_its_own_folder_delays_no_release_of_its_neighbour(blog, hostile):
    """/run is the host's: where it is full, systemd reloads no unit of any site."""
    before = blog.host.run("df --output=used /run | tail -1").stdout
    with under(hostile, ATTACKS["its folder"]):
        blog.host.run("systemctl daemon-reload")
        used = int(blog.host.run("df --output=used /run | tail -1").stdout) - int(before)
        assert used < 1024, f"{used} KB more of /run are used"
    assert_not_delayed(blog, hostile, ATTACKS["its folder"])


@pytest.mark.full
@pytest.mark.parametrize("attack", [name for name in ATTACKS if name != "its folder"])
def test_a_site_delays_no_release_of_its_neighbour(blog, hostile, attack):
    assert_not_delayed(blog, hostile, ATTACKS[attack])


@pytest.mark.full
def test_all_attacks_at_once_delay_no_release_of_the_neighbour(blog, hostile):
    names = [name for name in ATTACKS if name != "messages to systemd"]
    assert_not_delayed(blog, hostile, "\n".join(ATTACKS[name] for name in names))


def hostile_start(hostile: Site, when: str) -> None:
    """Commit a release whose web server does this as it starts."""
    text = EXTENDS.format(prelude=_PRELUDE, when=when)
    wsgi = hostile.repository.read("website/wsgi.py")
    hostile.repository.commit({"website/extends.py": text, "website/wsgi.py": f"from . import extends\n{wsgi}"})


@pytest.mark.full
def test_an_import_that_never_ends_holds_its_own_site_only(blog, hostile):
    wsgi = hostile.repository.read("website/wsgi.py")
    live = hostile.live
    blog.repository.commit(version("7.0"))
    began = time.monotonic()
    blog.deploy()
    alone = time.monotonic() - began
    hostile_start(hostile, "never()")
    blog.repository.commit(version("7.1"))
    with ExitStack() as stack:
        loads = [stack.enter_context(load(site)) for site in (blog, hostile)]
        for one in loads:
            one.wait(20)
        began = time.monotonic()
        applied = blog.apply()
        taken = time.monotonic() - began
    assert [one.failed for one in loads] == [[], []]
    print(f"seconds of an apply: {alone:.1f}, with the import that never ends {taken:.1f}")
    assert taken < alone * FACTOR + START + SPARE
    assert {name.split()[0] for name in applied.failed} == {"mallory"}, applied
    failure = applied.failed["mallory has its instance"]
    assert "not ready after" in failure and "its processes were killed" in failure
    assert "django:sites:mallory:timeouts:start" in failure
    assert blog.answering["version"] == "7.1" and hostile.live == live
    listed = blog.host.run("systemctl list-units --plain --no-legend 'django-mallory-*'").stdout
    assert "activating" not in listed, listed
    began = time.monotonic()
    assert "mallory has its source" in blog.apply().failed, "the same commit is tried again"
    assert time.monotonic() - began < alone * FACTOR + NOISE
    hostile.repository.commit({"website/extends.py": None, "website/wsgi.py": wsgi})
    hostile.deploy()


@pytest.mark.full
def test_a_server_that_never_ends_is_killed(blog, hostile):
    """It was stopped by a switch, and holds nothing up when its release is removed."""
    wsgi = hostile.repository.read("website/wsgi.py")
    hostile_start(hostile, "atexit.register(never)")
    hostile.deploy()
    stuck, usual = hostile.live, 0.0
    for number in ("8.1", "8.2", "8.3"):
        hostile.repository.commit({"website/wsgi.py": wsgi, **version(number)})
        blog.repository.commit(version(number))
        began = time.monotonic()
        blog.deploy()
        taken = time.monotonic() - began
        print(f"seconds of an apply: {taken:.1f}")
        usual = usual or taken
        assert taken < usual * FACTOR + DRAIN + SPARE
        assert blog.answering["version"] == hostile.answering["version"] == number
    assert stuck not in hostile.releases
    processes = blog.host.run("ps -u mallory -o args", check=False).stdout
    assert stuck not in processes, processes


@pytest.mark.full
def test_releases_with_granian_stop_no_other_site(hosts, repositories):
    """Each has the folder of its own socket mounted, or tries to where systemd may not mount, as here."""
    blog = live_site(hosts, repositories)
    forum = Site(blog.host, blog.repository, "forum", neighbour=blog, server={"kind": "gunicorn"})
    blog.deploy()
    others = (blog, forum)
    served = [(site.live, site.units) for site in others]
    shop = Site(blog.host, blog.repository, "shop", neighbour=blog, server={"kind": "granian"})
    with ExitStack() as stack:
        loads = [stack.enter_context(load(site)) for site in others]
        for one in loads:
            one.wait(20)
        applied = shop.deploy()
        first = shop.live
        shop.host.call("django.release", "shop")
        for one in loads:
            one.wait(20)
    assert "cannot be mounted with nosymfollow" in str(applied.warnings)
    assert [one.failed for one in loads] == [[], []]
    assert [one.releases for one in loads] == [[site.live] for site in others]
    assert [(site.live, site.units) for site in others] == served
    assert first != shop.live == shop.answering["release"]
