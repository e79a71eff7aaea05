"""A site in containers as tests look at it: its images, what is in them, what its processes see."""

import json
import time
from collections.abc import Callable, Collection

from client import Load
from lab import Host
from sites import Site, release_of

CELLS = [f"{engine}-{release}" for release in ("bookworm", "trixie") for engine in ("podman", "docker")]


def engine_of(blog: Site) -> str:
    """The engine of a site, also while its pillar has no containers."""
    return "docker" if blog.host.run(["which", "docker"], check=False).stdout else "podman"


def inside(blog: Site, command: str) -> str:
    return blog.host.run([engine_of(blog), "exec", blog.unit, "sh", "-c", command], check=False).stdout


def images(blog: Site) -> list[str]:
    listed = blog.host.run([engine_of(blog), "images", "--format={{.Repository}}:{{.Tag}}"]).stdout.split()
    named = [name for name in listed if not name.startswith("<none>")]  # as an engine keeps lines of Dockerfiles
    return sorted(name.removeprefix("localhost/django/") for name in named)


def dependencies(blog: Site) -> str:
    (name,) = [name for name in images(blog) if name.startswith("blog-deps:")]
    return name


def size_of(blog: Site, name: str) -> int:
    """The bytes of all layers of an image."""
    inspect = [engine_of(blog), "image", "inspect", "--format={{.Size}}", f"localhost/django/{name}"]
    return int(blog.host.run(inspect).stdout)


def image_ids(blog: Site) -> list[str]:
    return sorted(blog.host.run([engine_of(blog), "images", "--all", "--quiet", "--no-trunc"]).stdout.split())


def du(blog: Site, folder: str) -> int:
    """The bytes of the files in a folder."""
    return int(blog.host.run(["du", "-sb", folder]).stdout.split()[0])


def load(blog: Site, rate: float = 100, seconds: float = 3600) -> Load:
    """Requests at a rate, each on a connection of its own."""
    address = f"http://{blog.host.address}/release"
    return Load(address, blog.domain, connections=10, release=release_of, pause=10 / rate, seconds=seconds)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


#: Writes the arguments of every process into a file, for as long as the tests run.
_WATCH = "while sleep 0.2; do cat /proc/[0-9]*/cmdline | tr '\\0' ' '; echo; done 2>/dev/null >/run/arguments"


def secret_key(blog: Site) -> str:
    return str(json.loads(blog.host.read(f"{blog.root}/secrets/secret_key.json"))["key"])


def watch_arguments(host: Host) -> None:
    host.run(["systemd-run", "--quiet", "--unit=arguments", "bash", "-c", _WATCH])


def unpack(blog: Site, folder: str) -> None:
    """Save the active release's image, and unpack each layer of it; they are no `*.tar` in all formats."""
    image = f"localhost/django/{blog.name}:{blog.live}"
    save = f"{engine_of(blog)} save {image} | tar -x -C {folder}"
    unpack = 'mkdir -p "x/$one"; tar -x -f "$one" -C "x/$one" 2>/dev/null || rmdir "x/$one"'
    blog.host.run(f"rm -rf {folder}; mkdir {folder}; {save}")
    blog.host.run(f"cd {folder} && find . -type f -size +0 | while read -r one; do {unpack}; done")
    assert blog.host.run(f"find {folder}/x -name manage.py").stdout, "the layers were not unpacked"


def places_of(blog: Site, words: Collection[str]) -> list[str]:
    """Where one of the words is: in the active release's image, its container, arguments, the journal."""
    host, engine, image = blog.host, engine_of(blog), f"localhost/django/{blog.name}:{blog.live}"
    unpack(blog, "/srv/saved")
    host.write("/root/words", "\n".join(words))
    places = host.run("grep -rlF -f /root/words /srv/saved", check=False).stdout.split()
    containers = host.run([engine, "ps", "--quiet", "--no-trunc"]).stdout.split()
    texts = {
        "history": host.run([engine, "history", "--no-trunc", image]).stdout,
        "image": host.run([engine, "inspect", image]).stdout,
        "container": host.run([engine, "inspect", *containers]).stdout,
        "arguments": host.run("cat /run/arguments; ps axww -o args").stdout,
        "journal": host.run("journalctl --no-pager").stdout,
    }
    assert containers and f"--name={blog.unit}" in texts["arguments"], "the arguments were not watched"
    return places + [place for place, text in texts.items() if any(word in text for word in words)]
