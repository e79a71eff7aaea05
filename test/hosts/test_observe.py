"""The settings of a project are run to be asked, and the project is hostile: nothing of that leaves its sandbox."""

import re
from typing import Any

import pytest
import yaml
from conftest import Hosts, Repositories, live_site
from recipes import commit, recipe
from sites import Site

pytestmark = pytest.mark.full

CANARY = "canary-5f1c"
HOSTILE = "/srv/hostile.py"
#: A setting that runs what this test writes, in the sandbox only: the live release has been started without it.
SETTINGS = f"""
import os
if os.path.exists("{HOSTILE}"):
    exec(open("{HOSTILE}").read())
PLAIN = os.environ.get("PLAIN", "north")
"""
#: Looks for the secret in what it may read, and says how much that was.
LOOKS = """
import glob
read = 0
places = ["/proc/*/environ", "/run/**", "/etc/shadow", "/var/log/**", "/tmp/**", "/root/**"]
root = "/srv/django/blog/"  # all of it but virtualenvs, whose files take longer than an attempt may
places += [root + part for part in ("*", "[!rv]*/**", "repository.git/**", "runtime/**", "releases/*/*")]
places += [root + "releases/*/" + part for part in ("config/**", "source/**", "static/**")]
for path in [one for place in places for one in glob.glob(place, recursive=True)]:
    if not os.path.isfile(path):
        continue
    try:
        data = open(path, "rb").read(1 << 20)
    except OSError:
        continue
    read += 1
    if b"canary-" + b"5f1c" in data or b"root:*:" in data or b"root:!:" in data:
        FOUND = path
        raise RuntimeError("found in " + path)
raise RuntimeError(f"read {read} files: nothing")
"""
ATTACKS = {
    "kills its parent": ("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n", "cannot be asked|failed"),
    "writes JSON to all descriptors": (
        "import json, os, contextlib\n"
        "lie = {'stage': 'done', 'error': '', 'attempts': 1, 'facts': {}, 'variables': [{'name': 'A: {b: c}',"
        " 'place': '{{ salt.cmd.run(1) }}', 'default': '\\x1b[31m', 'kind': 'text', 'feeds': {'SECRET_KEY': 'whole'},"
        " 'required': True, 'together': False}] * 10000}\n"
        "for process in (os.getppid(), os.getpid()):\n"
        "    for number in range(64):\n"
        "        with contextlib.suppress(OSError):\n"
        "            open(f'/proc/{process}/fd/{number}', 'w').write(json.dumps(lie) + '\\n')\n",
        "",
    ),
    "never ends": ("while True:\n    pass\n", "Ended"),
    "takes all memory": ("taken = []\nwhile True:\n    taken.append(bytearray(1 << 26))\n", "MemoryError|Ended"),
    "forks without end": (
        "import os\nwhile True:\n    try:\n        if not os.fork():\n            os.setsid()\n"
        "    except OSError:\n        pass\n",
        "",
    ),
    "prints without end": (
        "import os\ntext = b'x' * 65536\n"
        "for number in range(3):\n"
        "    try:\n        out = os.open(f'/proc/{os.getppid()}/fd/{number}', os.O_WRONLY)\n"
        "    except OSError:\n        continue\n"
        "    try:\n        while True:\n            os.write(out, text)\n    except OSError:\n        pass\n"
        "LARGE = 'x' * 100_000_000\n",
        "",
    ),
    "reads secrets": (LOOKS, r"read \d+ files: nothing"),
    "uses the network": (
        "import socket\nsocket.create_connection(('127.0.0.1', 80), timeout=5)\n",
        "PermissionError|Operation not permitted",
    ),
    "writes elsewhere": (
        "import os\ndone = []\n"
        "for folder in ('/tmp', '/var/tmp', '/dev/shm', '/run', '/etc', '/srv', '/srv/django/blog',"
        " '/srv/django/blog/database', '/srv/django/blog/media', '/srv/django/blog/secrets',"
        " '/srv/django/blog/current', '/var/lib/django-formula'):\n"
        "    try:\n        open(f'{folder}/left-behind', 'w').write('x')\n    except OSError:\n        continue\n",
        "",
    ),
}


@pytest.fixture(scope="module")
def blog(module_hosts: Hosts, repositories: Repositories) -> Site:
    blog = live_site(module_hosts, repositories, secrets={"PAY_TOKEN": CANARY})
    settings = (blog.repository.worktree / "website/settings.py").read_text()
    blog.repository.commit({"website/settings.py": settings + SETTINGS})
    blog.deploy()
    assert blog.units  # the former release has ended
    return blog


def ask(blog: Site, timeout: float = 300) -> str:
    done = blog.host.run(["salt-call", "django.inspect", "blog", "run=True"], check=False, timeout=timeout)
    return done.stdout + done.stderr


def processes(blog: Site) -> list[str]:
    return sorted(blog.host.run("pgrep -u blog", check=False).stdout.split())


def test_a_live_site_says_what_it_asks_for(blog):
    said = ask(blog)
    assert "PLAIN: without it 'north'; read in website/settings.py:" in said
    assert "started without network, secrets and database" in said and "databases: default: " in said
    assert "pages: /" in said and CANARY not in said and "PAY_TOKEN" not in said
    assert blog.get("/").status_code == 200


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_of_a_hostile_project_leaves_its_sandbox(blog, attack):
    code, said = ATTACKS[attack]
    host = blog.host
    before, live = processes(blog), blog.live
    files = host.run("ls -lR --time-style=full-iso /etc /srv/django/blog/database /usr/local").stdout
    host.write(HOSTILE, code)
    try:
        answer = ask(blog)
    finally:
        host.run(["rm", HOSTILE])
    assert re.search(said, answer), answer
    assert CANARY not in answer and "\x1b" not in answer and "{{" not in answer and len(answer) < 300_000
    host.run(f"for _ in $(seq 1000); do [ $(pgrep -cu blog) -gt {len(before)} ] || break; sleep 0.1; done")
    assert processes(blog) == before and blog.live == live == blog.answering["release"]
    assert host.run("find / -xdev -name left-behind; find /tmp /dev/shm /run -name left-behind").stdout == ""
    assert host.run("ls -lR --time-style=full-iso /etc /srv/django/blog/database /usr/local").stdout == files
    assert "observe" not in host.run("systemctl list-units --all --no-legend 'django-blog-*'").stdout
    assert blog.get("/").status_code == 200


# A project that is no site

#: Leaves a process behind, in a session of its own.
LEAVES = """
import os, time
if not os.fork():
    os.setsid()
    if not os.fork():
        time.sleep(600)
    os._exit(0)
"""


def inspected(blog: Site, where: str, *options: str) -> tuple[str, dict[str, Any]]:
    """What an inspection that runs a project prints, and the site of its pillar."""
    argv = ["salt-call", "django.inspect", where, *options, "run=True"]
    said = blog.host.run(argv, check=False, timeout=900).stdout
    (site,) = yaml.safe_load(said)["local"]["django"]["sites"].values()
    return said, site


def whole(blog: Site) -> dict[str, str]:
    """What an inspection leaves as it is: all of the host but the formula's cache."""
    looks = {
        "users": "cat /etc/passwd /etc/group",
        "etc": "find /etc -type f -newer /etc/hostname ! -name '*-' ! -name '*shadow' ! -name 'sub*id' ! -name group"
        " ! -name passwd -printf '%p %T@\\n' | sort",
        "files": "find /srv /usr/local -not -path '*/__pycache__*' -printf '%p %u %m %y\\n' | grep -v /runtime/ | sort",
        "run": "ls -A /run/django /tmp /var/tmp /dev/shm /var/lib/django-formula/sites",
        "units": "systemctl list-units --all --no-legend 'django-*' | grep -o 'django-[^ ]*' | sort",
        "packages": "dpkg-query --show",
    }
    return {name: blog.host.run(command, check=False).stdout for name, command in looks.items()}


def test_a_public_project_is_asked_before_it_is_a_site(blog):
    """A shop of which every setting is a variable without a default, as it was published."""
    commit(blog.host, "webshop", "1.0.0", recipe("webshop")["owner"])
    before = whole(blog)
    said, site = inspected(blog, "file:///srv/projects/webshop")
    assert "observed: started without network, secrets and database" in said, said
    wanted = recipe("webshop")["pillar"]["environment"]
    assert {*site["environment"], *site.get("secrets", {})} >= {*wanted}, said
    assert site["environment"]["SECRET_KEY"] == {"from": "secret_key"}
    assert re.search(r"SECRET_KEY: .*observed: required, in SECRET_KEY", said), said
    assert whole(blog) == before
    kept = "/var/cache/django-formula/inspected"
    assert blog.host.run(f"cd {kept}/*/ && ls && stat -c %U:%a .").stdout.split() == [
        "build",
        "virtualenvs",
        "root:700",
    ]


def test_what_cannot_be_built_is_read_and_the_cause_is_named(blog):
    needs = f"{blog.repository.read('requirements.txt')}\nno-such-package-5f1c==1.0\n"
    blog.repository.commit({"requirements.txt": needs}, branch="unbuilt")
    said, site = inspected(blog, blog.repository.url, "unbuilt")
    assert "not observed: " in said and "no-such-package-5f1c" in said and site["revision"] == "unbuilt", said
    assert site["health"] == {"path": "/healthz"} and "_django-inspect" not in blog.host.run("cat /etc/passwd").stdout


CALM = ("kills its parent", "writes JSON to all descriptors", "prints without end", "reads secrets", "writes elsewhere")


@pytest.mark.parametrize("attack", CALM)
def test_nothing_of_a_hostile_project_leaves_its_inspection(blog, attack):
    before = whole(blog)
    leaves = "" if attack == "reads secrets" else LEAVES  # it has 30 s to look everywhere
    blog.host.write(HOSTILE, leaves + ATTACKS[attack][0])
    try:
        said, site = inspected(blog, blog.repository.url, "main")
    finally:
        blog.host.run(["rm", HOSTILE])
    if attack == "reads secrets":
        assert re.search(r"read \d+ files: nothing", said), said
    assert CANARY not in said and "\x1b" not in said and "{{" not in said and len(said) < 300_000
    assert site["repository"] == blog.repository.url and whole(blog) == before
    assert blog.host.run("find / -xdev -name left-behind; find /tmp /dev/shm /run -name left-behind").stdout == ""
    assert blog.get("/").status_code == 200
