"""The lab itself: what the other tests on hosts stand on."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from client import Load
from images import pins
from lab import SET_BY_US, Host


@pytest.fixture(scope="module", name="host")
def a_host(module_hosts) -> Host:
    return module_hosts(name="web1")


@pytest.fixture
def page(host: Host) -> Iterator[str]:
    """A page that a host serves on port 8000."""
    host.write("/srv/page/index.html", "release 1")
    host.run(["systemd-run", "--unit=page", "--working-directory=/srv/page", "python3", "-m", "http.server", "8000"])
    host.run("until echo > /dev/tcp/localhost/8000; do sleep 0.1; done 2>/dev/null", timeout=10)
    yield f"http://{host.address}:8000/"
    host.run(["systemctl", "stop", "page"])


@pytest.mark.full
def test_each_release_boots_with_the_pinned_salt(hosts, release):
    host = hosts(release)
    assert host.run(["systemctl", "is-system-running"]).stdout.strip() == "running"
    assert host.testinfra.system_info.codename == release
    assert [f"salt=={host.call('test.version')}"] == pins("salt")


@pytest.mark.full
def test_a_bare_host_has_no_salt(hosts, release):
    host = hosts(release, kind="bare")
    assert host.run("command -v salt-call git nginx gcc", check=False).returncode == 1
    assert host.testinfra.file("/srv/formula/pyproject.toml").is_file


@pytest.mark.full
def test_hosts_reach_each_other_by_name_and_the_internet(host, hosts):
    other = hosts(name="web2")
    assert other.run(["getent", "hosts", "web1"]).stdout.split()[0] == host.address
    other.run("echo > /dev/tcp/web1/22", timeout=60)
    other.run("echo > /dev/tcp/deb.debian.org/80", timeout=60)


@pytest.mark.full
def test_way_out_keeps_its_address_while_hosts_come_and_go(host, hosts, lab):
    """The bridge would take the lowest hardware address of its ports, and another one when that port goes."""
    seen = {(lab.bridge / "address").read_text()}
    for _round in range(2):
        other = hosts(kind="bare")
        seen.add((lab.bridge / "address").read_text())
        other.remove()
        seen.add((lab.bridge / "address").read_text())
    assert len(seen) == 1
    assert (lab.bridge / "addr_assign_type").read_text().strip() == SET_BY_US


@pytest.mark.full
def test_a_host_is_driven(host):
    host.write("/etc/lab/motto", "one, two\n", mode="0600", owner="www-data")
    assert host.read("/etc/lab/motto") == "one, two\n"
    file = host.testinfra.file("/etc/lab/motto")
    assert (file.user, file.mode) == ("www-data", 0o600)
    assert host.run(["cat"], stdin="ö").stdout == "ö"
    assert host.run("exit 3", check=False).returncode == 3
    with pytest.raises(AssertionError, match="exit 124"):
        host.run(["sleep", "60"], timeout=1)


@pytest.mark.full
def test_commands_run_at_once_and_leave_processes_behind_and_end_with_the_host(hosts):
    host = hosts(kind="bare")
    meet = "touch /run/met-{0}; until [ $(ls /run/met-* | wc -l) = 4 ]; do sleep 0.1; done; echo {0}"
    with ThreadPoolExecutor(4) as pool:
        told = pool.map(host.run, [meet.format(number) for number in range(4)])
    assert [result.stdout for result in told] == ["0\n", "1\n", "2\n", "3\n"]
    typed = host.type("read -p 'Who? ' who; sleep 1; stty size; echo hello $who; exit 3", "Who? ", "ada")
    assert typed.returncode == 3 and "hello ada" in typed.stdout, typed
    assert host.type("exit 4", "never", "").returncode == 4
    assert host.run("(sleep 600; echo late) & echo soon", timeout=60).stdout == "soon\n"
    assert host.run("head -c 3000000 /dev/zero; echo $WORD >&2", environment={"WORD": "ö"}).stderr == "ö\n"
    with ThreadPoolExecutor(1) as pool:
        cut = pool.submit(host.run, "touch /run/begun; sleep 600", check=False)
        host.run("until test -e /run/begun; do sleep 0.1; done", timeout=60)
        host.kill()
        assert cut.result(timeout=60).returncode == 137


@pytest.mark.full
def test_states_are_applied_masterless(host):
    host.pillar({"motto": "{{ not jinja }}"})
    host.write("/srv/formula/lab.sls", "note:\n  file.managed:\n    - name: /etc/note\n    - contents_pillar: motto\n")
    foreseen = host.apply("lab", test=True)
    assert foreseen["note"].result is None
    assert "note" in foreseen.changed and not foreseen.failed
    assert host.apply("lab").changed.keys() == {"note"}
    again = host.apply("lab")
    assert again.ok and not again.changed
    assert host.read("/etc/note").strip() == "{{ not jinja }}"
    assert host.apply("lab", pillar={"motto": "given"}).changed.keys() == {"note"}
    broken = host.apply("lacking")
    assert not broken.ok and "No matching sls found for 'lacking'" in broken.errors[0]


@pytest.mark.full
def test_a_reboot_and_a_power_loss_keep_disk_and_address(hosts):
    host = hosts()
    host.write("/etc/kept", "yes")
    boots = [host.read("/proc/1/stat").split()[21]]
    for reboot in (host.restart, lambda: (host.kill(), host.start())):
        reboot()
        boots.append(host.read("/proc/1/stat").split()[21])
        assert host.read("/etc/kept") == "yes"
        assert host.run(["hostname", "-I"]).stdout.strip() == host.address
    assert len(set(boots)) == 3


@pytest.mark.full
def test_a_host_without_init(hosts):
    host = hosts(init=False)
    assert host.testinfra.process.get(pid=1).comm == "sleep"
    assert host.call("test.ping") is True


@pytest.mark.full
def test_a_host_is_asked_from_outside(host, page):
    assert host.browser("blog.example.org", port=8000).get("/").text == "release 1"


def test_a_load_loses_nothing_and_names_the_release(host, page):
    with Load(page, "blog.example.org", connections=4, release=bytes.decode) as load:
        load.wait(50)
        host.write("/srv/new.html", "release 2")
        host.run(["mv", "/srv/new.html", "/srv/page/index.html"])
        load.wait(50)
    assert load.failed == []
    assert load.releases[0] == "release 1" and load.releases[-1] == "release 2"


def test_a_load_sees_what_is_lost(host):
    with Load(f"http://{host.address}:8001/", "blog.example.org", connections=1) as load:
        load.wait(2)
    assert len(load.failed) >= 2
    assert "refused" in (load.failed[0].error or "")


@pytest.mark.full
def test_a_load_stops_by_itself(host, page):
    with Load(page, "blog.example.org", connections=1, requests=3) as load:
        load.threads[0].join(10)
        assert len(load.answers) == 3


@pytest.mark.full
def test_a_repository_takes_commits(host, repositories):
    repository = repositories(host)
    first = repository.git("rev-parse", "HEAD").strip()
    second = repository.commit({"news.txt": "new\n"})
    branched = repository.commit({"news.txt": None}, branch="next")
    assert len({first, second, branched}) == 3
    assert host.read(f"{repository.path}/refs/heads/main").strip() == second
    assert host.read(f"{repository.path}/refs/heads/next").strip() == branched
