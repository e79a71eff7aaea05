"""quickstart on machines that have nothing but Debian: each is a story, from `sudo ./quickstart` to `--remove`.

Salt's wheels come from the cache folder, for to build them takes minutes; with --all one machine does that too.
"""

import functools
import hashlib
import itertools
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import Hosts, Repositories
from images import cache_folder, locked, pins
from lab import WATCH, Host, Lab, Result
from repository import Repository
from trees import write_tree

PILLAR = "/etc/django-formula/pillar/django.sls"
LOG = "/var/lib/django-formula/quickstart/log"
OFFLINE = {"PIP_FIND_LINKS": "/wheels", "PIP_NO_INDEX": "1"}
#: What apt, dpkg, ucf, ldconfig and systemd write on their own account.
NOT_OURS = (
    "/(proc|sys|run|tmp|wheels|srv/(formula|git))|"
    "/var/(log|tmp|backups|lib/(apt|dpkg|systemd|ucf)|cache/(apt|debconf|ldconfig))"
)


class Machine:
    """A host on which quickstart runs, as it was before that."""

    def __init__(self, host: Host, port: int):
        self.host, self.port = host, port
        if port != 80:
            runner = "systemd-run --quiet --unit=other" if host.init else "setsid --fork"
            host.run(f"{runner} python3 -m http.server 80 </dev/null >/dev/null 2>&1")
            host.run("until echo > /dev/tcp/localhost/80; do sleep 0.1; done 2>/dev/null", timeout=100)
        self.files, self.packages = self.list_files(), self.list_packages()

    def quickstart(self, *arguments: str, check: bool = True) -> Result:
        return self.host.run(["/srv/formula/quickstart", *arguments], environment=OFFLINE, check=check)

    def list_files(self) -> set[str]:
        prune = ["find", "/", "-xdev", "-regextype", "egrep", "-regex", NOT_OURS, "-prune", "-o", "-print"]
        return set(self.host.run(prune).stdout.splitlines())

    def list_packages(self) -> set[str]:
        return set(self.host.run(["dpkg-query", "--show", "--showformat=${Package}\n"]).stdout.split())

    def touched(self, since: str) -> list[str]:
        """The files of which content, owner or mode have changed since a file was written."""
        newer = ["find", "/", "-xdev", "-regextype", "egrep", "-regex", NOT_OURS, "-prune", "-o"]
        listed = self.host.run([*newer, "-type", "f", "-newercm", since, "-print"]).stdout.splitlines()
        own = ("/var/lib/django-formula/quickstart/", "/var/cache/django-formula/", f"{WATCH}/")
        open_files = ("-wal", "-shm")  # of a database: the running site keeps them next to it
        return [path for path in listed if not path.startswith(own) and not path.endswith(open_files)]

    def page(self, domain: str | None = None, path: str = "/") -> str:
        answer = self.host.browser(domain, self.port).get(path)
        assert answer.status_code == 200, answer.text
        return answer.text

    def comes_back(self) -> None:
        """Wait until the site answers, ten times as long as it takes."""
        limit = time.monotonic() + 100
        while True:
            try:
                self.page()
                return
            except (AssertionError, OSError):
                if time.monotonic() > limit:
                    raise
                time.sleep(0.1)

    def log_in(self, site: str, domain: str | None = None) -> None:
        """Log in as the admin through the form, with what the file says."""
        password = f"/srv/django/{site}/secrets/superuser-admin"
        file = self.host.testinfra.file(password)
        assert (file.user, file.group, file.mode) == ("root", "root", 0o600)
        said = dict(re.findall(r'DJANGO_SUPERUSER_(\w+)="(.*)"', file.content_string))
        browser = self.host.browser(domain, self.port)
        form = browser.get("/admin/login/").text
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)
        assert token
        answers = {"csrfmiddlewaretoken": token[1], "username": said["USERNAME"], "password": said["PASSWORD"]}
        assert browser.post("/admin/login/?next=/admin/", data=answers).status_code == 302
        assert "Site administration" in browser.get("/admin/").text
        assert said["PASSWORD"] not in self.host.read(LOG)


def wheels(lab: Lab, release: str) -> str:
    """A folder with the wheels of Salt and uv for a release; made once."""
    wanted = [*pins("salt"), *pins("uv")]
    key = hashlib.sha256(" ".join(wanted).encode()).hexdigest()[:12]
    folder = cache_folder() / "wheels" / f"{release}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_suffix(".lock")):
        if not (folder / ".complete").exists():
            host = lab.start(release, kind="bare", options=[f"--volume={folder}:/wheels"])
            packages = "gcc libc6-dev python3-dev python3-venv"
            host.run(f"apt-get -qq update && apt-get -qq install --no-install-recommends {packages} >/dev/null")
            host.run(["python3", "-m", "venv", "/opt/wheels"])
            host.run(["/opt/wheels/bin/pip", "wheel", "--quiet", "--wheel-dir=/wheels", *wanted])
            host.remove()
            (folder / ".complete").touch()
    return str(folder)


@pytest.fixture(scope="module")
def machines(lab: Lab, module_hosts: Hosts) -> Callable[[str], Machine]:
    """The machine of a release, made when it is asked for; on Debian 13 another server listens on port 80."""

    @functools.cache
    def made(release: str) -> Machine:
        volume = f"--volume={wheels(lab, release)}:/wheels:ro"
        host = module_hosts(release, kind="bare", name="web1", options=[volume])
        return Machine(host, 80 if release == "bookworm" else 8080)

    return made


@pytest.fixture
def machine(machines: Callable[[str], Machine], release: str) -> Machine:
    return machines(release)


@pytest.fixture
def bookworm(machines: Callable[[str], Machine]) -> Machine:
    return machines("bookworm")


# The bundled example


def test_a_fresh_machine_serves_the_example(machine):
    host = machine.host
    done = machine.quickstart()
    where = host.address if machine.port == 80 else f"{host.address}:{machine.port}"
    assert f"http://{where}/ answers 200 OK" in done.stdout
    assert "password in /srv/django/guestbook/secrets/superuser-admin" in done.stdout
    told = ["installing python3-venv", "installing uv", "installing Salt", "guestbook: installing requirements.txt"]
    places = [done.stdout.index(text) for text in (*told, "activating", "Seconds")]
    assert places == sorted(places) and done.stdout.index(" nginx") < done.stdout.index("applying the formula")
    seconds = [0, *(int(line.split()[0]) for line in done.stdout.splitlines() if re.match(r" *\d+ s  ", line))]
    # A line every 5 s, where nothing else wants the processor.
    assert (
        max(later - earlier for earlier, later in itertools.pairwise(seconds)) <= 50 and len(seconds) > seconds[-1] / 10
    )
    assert ("python3 listens on port 80: the site gets port 8080" in done.stdout) == (machine.port == 8080)
    for name in (None, "web1", "localhost"):
        assert "guestbook" in machine.page(name).lower()
    machine.log_in("guestbook")
    new = machine.list_packages() - machine.packages
    assert {"git", "nginx", "python3-venv"} <= new and not {"gcc", "python3-dev"} & new
    listed = done.stdout.split("\nInstalled\n")[1].split("\n\n")[0].split(":")[-1].split()
    assert set(listed) == new
    assert "guestbook" in host.run(["salt-call", "--out=json", "django.status"]).stdout


def test_again_nothing_is_changed(machine):
    machine.host.run(["touch", "/tmp/before"])
    done = machine.quickstart()
    assert "Nothing had to be changed" in done.stdout and "answers 200 OK" in done.stdout
    assert machine.touched("/tmp/before") == []


#: Runs a program at a terminal of its own, answers its question, and prints what it printed.
TERMINAL = """
import os, pty, sys
pid, terminal = pty.fork()
if not pid:
    os.execv(sys.argv[2], sys.argv[2:])
seen, is_answered = b"", False
while True:
    try:
        part = os.read(terminal, 4096)
    except OSError:
        break
    seen += part
    if b"empty for nowhere: " in seen and not is_answered:
        is_answered = os.write(terminal, sys.argv[1].encode() + b"\\n") > 0
print(seen.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_place_of_messages_is_asked_once_at_a_terminal(machine):
    at_terminal = ["python3", "-c", TERMINAL, "https://ntfy.sh/example", "/srv/formula/quickstart"]
    done = machine.host.run(at_terminal, environment=OFFLINE)
    assert "empty for nowhere: " in done.stdout and "the channel of messages has been applied" in done.stdout
    assert "django.notify test" in done.stdout and "answers 200 OK" in done.stdout
    channels = yaml.safe_load(machine.host.read(PILLAR))["django"]["notify"]
    assert channels == {"messages": {"url": "https://ntfy.sh/example", "format": "ntfy"}}
    page = re.search(
        r"  page +(\S+ django\.page (/srv/\S+)) writes index\.html there: docs/guides/page\.md\s*$", done.stdout
    )
    assert page
    machine.host.run(page[1])
    assert "guestbook" in machine.host.run(f"cat {page[2]}/index.html && rm -r {page[2]}").stdout
    again = machine.host.run(at_terminal, environment=OFFLINE)
    assert "empty for nowhere" not in again.stdout and "Nothing had to be changed" in again.stdout


# A project of one's own


@pytest.fixture(scope="module")
def repository(machines: Callable[[str], Machine], repositories: Repositories) -> Repository:
    return repositories(machines("bookworm").host, "/srv/git/Blog_2.git")


@pytest.mark.full
def test_a_repository_is_served_instead(bookworm, repository):
    arguments = ["--repository", repository.url, "--revision=main", "--domain", "blog.example.org"]
    done = bookworm.quickstart(*arguments)
    assert "http://blog.example.org/ answers 200 OK" in done.stdout
    assert f"blog.example.org has no address yet: point it to this machine, {bookworm.host.address}" in done.stdout
    pillar = bookworm.host.read(PILLAR).split("\ndjango:\n")[1].split("  notify:\n")[0]  # of a test before
    assert pillar == (
        "  sites:\n    blog-2:\n      repository: file:///srv/git/Blog_2.git\n      revision: main\n"
        "      domains: [blog.example.org]\n      health:\n        path: /healthz\n"
        "    guestbook:\n      state: absent\n"
    )
    assert "found in the project: health" in done.stdout
    bookworm.page("blog.example.org")
    bookworm.log_in("blog-2", "blog.example.org")
    assert bookworm.host.testinfra.file("/srv/django/guestbook/database/db.sqlite3").is_file
    bookworm.host.run("echo 192.0.2.7 blog.example.org >> /etc/hosts")
    done = bookworm.quickstart(*arguments)
    assert "Nothing had to be changed" in done.stdout
    assert "blog.example.org points to 192.0.2.7: unless that leads here, point it to this machine" in done.stdout
    bookworm.host.run(f"echo {bookworm.host.address} blog.example.org >> /etc/hosts")
    assert "point it to this machine" not in bookworm.quickstart(*arguments).stdout


@pytest.mark.full
def test_a_new_commit_is_released_and_a_broken_one_is_explained(bookworm, repository):
    repository.commit({"guestbook/version.py": 'VERSION = "2"\nRELEASE_NOTE = "quick"\n'})
    assert "activating" in bookworm.quickstart().stdout
    repository.commit({"website/urls.py": "import nothing_of_that_name\n"})
    failed = bookworm.quickstart(check=False)
    assert failed.returncode == 1
    assert "No module named 'nothing_of_that_name'" in failed.stderr and "still runs" in failed.stderr
    assert len(failed.stderr.strip().splitlines()) <= 10
    assert '"quick"' in bookworm.page("blog.example.org", "/release")
    repository.git("revert", "--no-edit", "HEAD")
    repository.push()


@pytest.mark.full
def test_a_pillar_that_was_edited_is_left_alone(bookworm, repository):
    edited = bookworm.host.read(PILLAR).replace("[blog.example.org]", "[blog.example.org, www.example.org]")
    bookworm.host.write(PILLAR, edited, mode="0600")
    bookworm.quickstart()
    bookworm.page("www.example.org")
    assert bookworm.host.read(PILLAR) == edited
    refused = bookworm.quickstart("--domain=other.example.org", check=False)
    assert refused.returncode == 1
    assert f"{PILLAR} has been edited" in refused.stderr
    refused = bookworm.quickstart("--repository", "/srv/formula/examples/project", check=False)
    assert f"this machine serves blog-2 from {repository.url} already" in refused.stderr


def serves_a_folder(machine: Machine) -> None:
    """A folder of another user is served as it is; a change in it is released."""
    machine.host.run("cp -r /srv/formula/examples/project /home/shop && chown -R games:games /home/shop")
    done = machine.host.run("cd /home && /srv/formula/quickstart --repository shop", environment=OFFLINE)
    assert f"http://{machine.host.address}:8080/ answers 200 OK" in done.stdout
    assert "folder: /home/shop\n" in machine.host.read(PILLAR)
    machine.log_in("shop")
    machine.host.write("/home/shop/guestbook/version.py", 'VERSION = "2"\nRELEASE_NOTE = "edited"\n')
    assert "activating" in machine.quickstart().stdout
    assert '"edited"' in machine.page(path="/release")


# Removal


def test_what_quickstart_has_put_there_is_taken_away(bookworm):
    databases = [path for path in bookworm.list_files() if path.endswith("/database/db.sqlite3")]
    sites = {path.split("/")[3] for path in databases}
    assert "guestbook" in sites
    audit = {"/var/lib/django-formula", *(f"/var/lib/django-formula/audit{year}.jsonl" for year in ("", "-2025"))}
    bookworm.host.run("cd /var/lib/django-formula; head -n 2 audit.jsonl > audit-2025.jsonl")
    written = bookworm.host.read("/var/lib/django-formula/audit.jsonl")
    done = bookworm.quickstart("--remove")
    assert "the audit log stays in /var/lib/django-formula; to delete it: rm " in done.stdout
    assert all(f"the data of {site} stays in /srv/django/{site}" in done.stdout for site in sites)
    assert bookworm.list_packages() == bookworm.packages
    left = bookworm.list_files() - bookworm.files
    assert {path for path in left if not path.startswith("/srv/django")} == audit
    assert bookworm.host.read("/var/lib/django-formula/audit.jsonl").startswith(written)
    for site in sites:
        assert f"/srv/django/{site}/database/db.sqlite3" in left
        assert not {f"/srv/django/{site}/{name}" for name in ("releases", "virtualenvs", "current")} & left
    assert bookworm.files <= bookworm.list_files()
    assert "Nothing of quickstart is here" in bookworm.quickstart("--remove").stdout


def is_removed_with_its_data(machine: Machine) -> None:
    machine.host.run("touch /var/lib/django-formula/audit-2025.jsonl")
    done = machine.quickstart("--remove", "--remove-data")
    assert "the audit log stays" not in done.stdout
    assert machine.list_packages() == machine.packages
    files = machine.list_files()
    assert machine.files <= files and files - machine.files == {path for path in files if path.startswith("/home/shop")}
    assert not machine.host.testinfra.user("guestbook").exists and not machine.host.testinfra.user("shop").exists


@pytest.mark.full
def test_a_pillar_is_completed_by_what_a_failed_release_asks_for(machines, repositories, tmp_path_factory):
    """The project's variables are in no source, and its error names none; a pillar that was edited stays as it is."""
    machine = machines("trixie")
    described = yaml.safe_load((Path(__file__).with_name("traits") / "annex.yaml").read_text())["files"]
    described["annex/settings.py"] = re.sub("REGION = .*\n|FLOORS = .*\n", "", described["annex/settings.py"])
    described["annex/settings.py"] += "REGION, FLOORS = 'north', 3\n"
    folder = write_tree(tmp_path_factory.mktemp("annex"), described)
    repository = repositories(machine.host, "/srv/git/annex.git", folder)
    done = machine.quickstart("--repository", repository.url)
    assert "the release failed: " in done.stdout and "applying again" in done.stdout
    pillar = machine.host.read(PILLAR)
    assert "ANNEX_SIGNATURE:\n          from: secret_key\n" in pillar and "from: database_url" in pillar
    assert machine.host.browser(None, machine.port).get("/").json()["region"] == "north"
    assert "Nothing had to be changed" in machine.quickstart().stdout
    machine.quickstart("--remove", "--remove-data")
    assert machine.list_packages() == machine.packages and machine.list_files() == machine.files


@pytest.mark.full
def test_a_folder_is_served_and_the_data_goes_when_that_is_said(machines):
    machine = machines("trixie")
    serves_a_folder(machine)
    is_removed_with_its_data(machine)


# What it refuses


@pytest.fixture(scope="module")
def without_init(module_hosts: Hosts) -> Host:
    return module_hosts(kind="bare", init=False)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--instal"], "unknown argument --instal; --help explains"),
        (["--repository"], "--repository needs a value"),
        (["--repository", "/srv/none"], "/srv/none is neither a folder nor a URL"),
        (["--remove-data"], "--remove-data goes with --remove"),
        (["--remove", "--domain=a.org"], "--remove takes no --domain"),
        (["--domain", "Blog.example.org"], "Blog.example.org is no host name in lower case"),
        (["--domain=a_b.org"], "a_b.org is no host name in lower case"),
    ],
)
def test_arguments_and_machines_that_are_refused(without_init, arguments, why):
    done = without_init.run(["/srv/formula/quickstart", *arguments], check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"quickstart: {why}")


def test_another_system_and_another_user_are_refused(without_init):
    done = without_init.run(["/srv/formula/quickstart"], user="nobody", check=False)
    assert (done.returncode, done.stderr) == (1, "quickstart: this needs root: sudo ./quickstart\n")
    without_init.write("/etc/os-release", 'ID=almalinux\nVERSION_ID="9.4"\nPRETTY_NAME="AlmaLinux 9.4"\n')
    done = without_init.run(["/srv/formula/quickstart"], check=False)
    assert "this is AlmaLinux 9.4; quickstart is for Debian 12 and 13, Ubuntu 22.04 and 24.04" in done.stderr


def test_a_project_is_inspected_with_nothing_installed(without_init):
    """By anybody, where the project is a folder."""
    done = without_init.run(["/srv/formula/quickstart", "--inspect", "/srv/formula/examples/project"], user="nobody")
    assert "folder: /srv/formula/examples/project\n" in done.stdout and "website.settings" in done.stdout
    done = without_init.run(["/srv/formula/quickstart", "--inspect=https://git.example.org/blog.git"], check=False)
    assert done.stderr == "quickstart: git is not installed: apt-get install git\n"


def test_help_is_given_to_anybody(without_init):
    done = without_init.run(["/srv/formula/quickstart", "--help"], user="nobody")
    assert "sudo ./quickstart --repository URL|FOLDER" in done.stdout


# Without an init


@pytest.mark.full
def test_a_container_without_init_serves_the_example_and_is_left_as_it_was(lab, hosts):
    folder = wheels(lab, "trixie")
    host = hosts("trixie", kind="bare", name="web1", init=False, options=[f"--volume={folder}:/wheels:ro"])
    machine = Machine(host, 8080)
    done = machine.quickstart()
    assert f"http://{machine.host.address}:8080/ answers 200 OK" in done.stdout
    assert "python3 listens on port 80: the site gets port 8080" in done.stdout
    assert "after a restart: service supervisor start; service nginx start" in done.stdout
    machine.log_in("guestbook")
    assert "Nothing had to be changed" in machine.quickstart().stdout
    machine.host.restart()
    machine.host.run("service supervisor start; service nginx start")
    machine.comes_back()
    assert "Nothing had to be changed" in machine.quickstart().stdout
    serves_a_folder(machine)
    is_removed_with_its_data(machine)
    processes = machine.host.run(["ps", "-eo", "stat=,comm="]).stdout.splitlines()
    alive = {line.split()[1] for line in processes if not line.startswith("Z")}
    assert not {"nginx", "supervisord", "uwsgi"} & alive


@pytest.mark.full
def test_nothing_is_prepared_for_it(hosts, release):
    host = hosts(release, kind="bare")
    done = host.run(["/srv/formula/quickstart"], timeout=1200)
    assert f"http://{host.address}/ answers 200 OK" in done.stdout
