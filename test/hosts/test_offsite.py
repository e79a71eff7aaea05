"""Copies of a site's data elsewhere: made, proved by drills, damaged in every way, and a bare host made of them."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import full
from images import pins
from lab import ROOT, Host, busy
from sites import Site

ADD = "from guestbook.models import Entry; Entry.objects.create(name='{name}', message='kept')"
PASSWORD = "grenadier-71c0d5a6b2e94f38"
SECRETS = {"secrets": {"API_TOKEN": {"generate": 40}}}
#: Where the store has the repository of the site.
THERE = "/srv/copies/blog"


class Store:
    """A host that keeps copies: restic's repository in a folder, to which rclone only adds."""

    def __init__(self, host: Host, public: str):
        self.host = host
        host.run("useradd --create-home --shell /bin/sh backup1 && install -d -o backup1 -g backup1 /srv/copies")
        command = f'restrict,command="rclone serve restic --stdio --append-only {THERE}"'
        host.write(
            "/home/backup1/.ssh/authorized_keys", f"{command} {public}", owner="backup1", group="backup1", mode="0600"
        )
        host.run("useradd --create-home --shell /bin/sh backup2 && install -d -o backup2 -g backup2 /srv/copies2")
        host.write("/home/backup2/.ssh/authorized_keys", public, owner="backup2", group="backup2", mode="0600")
        host.run("systemctl start ssh")

    def options(self, key: str) -> dict[str, Any]:
        known = self.host.read("/etc/ssh/ssh_host_ed25519_key.pub").split()[:2]
        where = {"kind": "rclone", "host": self.host.address, "user": "backup1", "ssh_key": key}
        return {**where, "known_hosts": [" ".join([self.host.address, *known])], "password": PASSWORD}

    def restic(self, *words: str) -> str:
        environment = {"RESTIC_PASSWORD": PASSWORD, "RESTIC_REPOSITORY": THERE}
        return self.host.run(["restic", "--no-cache", *words], environment=environment).stdout

    def snapshots(self) -> list[dict[str, Any]]:
        return list(json.loads(self.restic("snapshots", "--json")))

    def keep(self) -> None:
        self.host.run(f"rm -rf {THERE}.kept && cp -a {THERE} {THERE}.kept")

    def put_back(self) -> None:
        self.host.run(f"rm -rf {THERE} && cp -a {THERE}.kept {THERE}")


@pytest.fixture(scope="module")
def blog(module_hosts: Any, repositories: Any) -> Site:
    host = module_hosts(kind="ready", name="web1")
    return Site(host, repositories(host), **SECRETS)


@pytest.fixture(scope="module")
def store(module_hosts: Any, blog: Site) -> Store:
    blog.host.run("ssh-keygen -q -t ed25519 -N '' -f /root/key")
    host = module_hosts(kind="bare", packages=("age", "rclone", "restic"), name="store1")
    return Store(host, blog.host.read("/root/key.pub"))


@pytest.fixture(scope="module")
def recovery(store: Store) -> str:
    """The recovery key, which no host of the site has."""
    store.host.run("age-keygen -o /root/recovery.txt")
    return store.host.read("/root/recovery.txt")


@pytest.fixture(scope="module")
def copied(blog: Site, store: Store, recovery: str) -> Site:
    """The site with rows, uploads, secrets and a store elsewhere."""
    public = recovery.partition("public key: ")[2].split()[0]
    offsite = {**store.options(blog.host.read("/root/key")), "recipients": [public]}
    blog.deploy(backup={"schedule": "daily", "offsite": offsite}, database={"engine": "postgres"})
    blog.manage(f'shell -c "{"; ".join(ADD.format(name=f"n{number}") for number in range(3))}"')
    photo = f"{blog.root}/media/photos/a.jpg"
    blog.host.run(f"runuser -u blog -- sh -c 'mkdir {blog.root}/media/photos && head -c 300000 /dev/urandom > {photo}'")
    return blog


@pytest.fixture
def whole(copied: Site, store: Store) -> Iterator[Store]:
    """The store, which is as it was after the test, and the host thinks well of it again."""
    store.keep()
    yield store
    store.host.run(["systemctl", "start", "ssh"])
    store.put_back()
    copied.host.run("systemctl reset-failed; systemctl start django-blog-offsite.service || true")
    copied.host.call("django.offsite", "blog", "forget=True")
    copied.host.call("django.restore_drill", "blog", "offsite=True")
    assert problems(copied) == []


def status(site: Site) -> dict[str, Any]:
    (row,) = site.host.call("django.status", site.name, full=True)
    return dict(row)


def problems(site: Site, row: dict[str, Any] | None = None) -> list[str]:
    """What status says of the copies in which something is wrong; a row of it may be known."""
    parts = (row or status(site))["offsite"].split("; ")
    return [part for part in parts if " fails since " in part or " is missing" in part]


def failure(site: Site, *call: str) -> str:
    """What a function says that fails."""
    result = site.host.salt(*call)
    assert result.returncode != 0, result
    return f"{result.stdout}\n{result.stderr}"


def data(site: Site) -> dict[str, Any]:
    """The rows, uploads and secrets of the site."""
    root = site.root
    rows = site.manage('shell -c "from guestbook.models import Entry; print(sorted(Entry.objects.values_list()))"')
    uploads = site.host.run(f"cd {root}/media && find -type f | sort | xargs sha256sum").stdout
    names = "secret_key.json API_TOKEN"
    return {
        "rows": rows,
        "uploads": uploads,
        "secrets": site.host.run(f"cd {root}/secrets && sha256sum {names}").stdout,
    }


#: Applies, and prints the modules of the engine that have run.
APPLY = """
import json
import salt.client
states = salt.client.Caller("/etc/salt/minion").cmd("state.apply", "django")
assert all(state["result"] for state in states.values()), states
from django_formula.host import lazy
print(json.dumps([len(states), *lazy.loaded()]))
"""


@pytest.mark.full
def test_site_without_copies_points_and_upgrades_runs_nothing_of_them(hosts: Any, repositories: Any) -> None:
    """In its first release and in an apply without a change."""
    host = hosts(kind="ready")
    plain = Site(host, repositories(host))
    plain.configure()
    for _time in range(2):
        count, *modules = json.loads(host.run(["/opt/salt/bin/python", "-c", APPLY]).stdout.splitlines()[-1])
        paid = [name for name in modules if re.search(r"\.(offsite|points)\.|upgrade|replication", name)]
        print(f"{count} states, {len(modules)} modules")
        assert paid == ["django_formula.offsite.repository"], "which knows the names of its secrets"
    assert plain.answering["release"] == plain.live


def test_backup_is_copied_and_proved_by_itself(copied: Site, store: Store) -> None:
    again = copied.apply()
    assert again.ok and not again.changed, again
    copied.host.run(["systemctl", "start", "django-blog-backup.service"])
    copied.host.run("until test -e /srv/django/blog/backups/offsite.json; do sleep 0.2; done", timeout=300)
    copied.host.run(["systemctl", "start", "django-blog-offsite.service"], timeout=300)  # waits for the one that runs
    made = copied.host.call("django.backups", "blog", full=True)
    (copy,) = copied.host.call("django.backups", "blog", "offsite=True", full=True)
    assert made[0]["backup"] == f"default-{copy['backup']}.dump.zst" and "default.dump.zst, media.tar" in copy["parts"]
    row = status(copied)
    assert "1 copy; drill " in row["offsite"] and problems(copied, row) == []
    assert len(store.snapshots()) == 4
    copied.host.run(["systemctl", "start", "django-blog-offsite.service"])
    assert len(store.snapshots()) == 4  # nothing is due
    assert copied.host.run(["ls", "/run/django/blog.offsite"], check=False).returncode != 0
    assert copied.host.run(["ls", f"{copied.root}/backups/drill"], check=False).returncode != 0


@pytest.mark.parametrize("words", ["forget --prune newest", full("forget --prune --keep-last 1 --group-by host")])
def test_host_deletes_nothing_of_the_store(copied: Site, store: Store, words: str) -> None:
    """With all that the host has."""
    before = store.host.run(f"cd {THERE} && find -type f -not -path './locks/*' | sort | xargs sha256sum").stdout
    copied.host.write("/root/known_hosts", "\n".join(copied.options["backup"]["offsite"]["known_hosts"]) + "\n")
    ssh = f"ssh -i /root/key -o UserKnownHostsFile=/root/known_hosts backup1@{store.host.address}"
    command = ["restic", "--no-cache", "-o", f"rclone.program={ssh}", "-r", "rclone:"]
    told = words.replace("newest", store.snapshots()[0]["id"]).split()
    result = copied.host.run([*command, *told], environment={"RESTIC_PASSWORD": PASSWORD}, check=False)
    assert "403" in result.stderr, result
    copied.host.run(f"{ssh} rm -rf {THERE} </dev/null", check=False)
    after = store.host.run(f"cd {THERE} && find -type f -not -path './locks/*' | sort | xargs sha256sum").stdout
    assert after == before


def test_only_root_reads_a_password(copied: Site) -> None:
    host = copied.host
    held = host.run(["grep", "-rlF", PASSWORD, "/srv/django", "/etc", "/run", "/var/log", "/tmp"], check=False).stdout
    assert held.split() == [f"{copied.root}/secrets/.offsite_password"]
    assert host.run(["stat", "-c", "%U %a", *held.split()]).stdout.strip() == "root 600"
    assert PASSWORD not in host.run("journalctl --no-pager -o cat").stdout


#: What happens to a store → the call that finds it, and what is said.
DAMAGES = {
    "flip": ("f=$(ls -S data/*/* | head -1); printf 'x' | dd of=$f bs=1 seek=5000 conv=notrunc 2>/dev/null", "drill"),
    "truncate": ("f=$(ls -S data/*/* | head -1); truncate -s 100 $f", "check"),
    "remove": ("rm $(ls -S data/*/* | head -1)", "check"),
}
FINDS = {"check": ("django.offsite", "blog"), "drill": ("django.restore_drill", "blog", "offsite=True")}


@pytest.mark.full
@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_found(copied: Site, whole: Store, kind: str) -> None:
    damage, what = DAMAGES[kind]
    whole.host.run(f"cd {THERE} && {damage}")
    said = failure(copied, *FINDS[what])
    assert "the store has lost or changed data" in said, said
    assert [part.partition(" ")[0] for part in problems(copied)] == [what]


@pytest.mark.full
def test_deleted_copy_is_found(copied: Site, whole: Store) -> None:
    whole.restic("forget", *(one["id"] for one in whole.snapshots()))
    assert "copies are gone that no rule has deleted: 2" in failure(copied, "django.offsite", "blog")
    (told,) = problems(copied)
    assert told.startswith("check fails since 2")


@pytest.mark.full
def test_store_that_is_away_or_closed_is_a_problem(copied: Site, whole: Store) -> None:
    whole.host.run(["systemctl", "stop", "ssh"])
    copied.host.call("django.backup", "blog")
    said = failure(copied, "django.offsite", "blog")
    assert "connect to host" in said and "Connection refused" in said, said
    assert {part.partition(" ")[0] for part in problems(copied)} == {"copy", "check"}
    whole.host.run(["systemctl", "start", "ssh"])
    copied.host.call("django.offsite", "blog")
    assert problems(copied) == []
    right = copied.options["backup"]
    copied.deploy(backup={**right, "offsite": {**right["offsite"], "password": "grenadier-but-another-one"}})
    assert "wrong password" in failure(copied, "django.offsite", "blog")
    copied.deploy(backup=right)


@pytest.fixture(scope="module")
def shop(copied: Site, repositories: Any) -> Site:
    """Another site of the host, on SQLite, with a queue in which tasks wait, and copies by sftp."""
    blogs = copied.options["backup"]["offsite"]
    backup = {"offsite": {**blogs, "kind": "sftp", "user": "backup2", "path": "/srv/copies2"}}
    shop = Site(copied.host, repositories(copied.host, "/srv/git/shop.git"), "shop", copied, **SECRETS)
    shop.deploy(backup=backup, queue={"engine": "redis"})
    shop.manage(f'shell -c "{ADD.format(name="shop")}"')
    redis(shop.host, "RPUSH", "waiting", "first", "second")
    return shop


def redis(host: Host, *words: str) -> str:
    return host.run(["runuser", "-u", "shop", "--", "redis-cli", "-s", "/run/django-shop-queue/socket", *words]).stdout


#: Seconds in which a bare Debian with Salt becomes the sites of the example.
FIRE_DRILL = 240


def by_the_docs(host: Host, recovery: str) -> dict[str, Any]:
    """What a rebuild answers."""
    host.run(["mkdir", "/mnt/stick"])
    host.write("/mnt/stick/recovery.txt", recovery)
    page = (ROOT / "docs/guides/offsite.md").read_text().partition("## A new host")[2]
    install, sync, rebuild, remove = re.findall("(?m)^    (.+)$", page)
    began = time.monotonic()
    host.run(f"cd /mnt/stick && {install} && {sync}")
    answer = json.loads(host.run(f"{rebuild} queue=True --out=json", timeout=1500).stdout)
    took = time.monotonic() - began
    host.run(remove)
    print(f"{took:.0f} s")
    assert took <= FIRE_DRILL * busy()
    return dict(answer[host.minion])


@pytest.mark.full
@pytest.mark.parametrize("kind", ["ready", "salt"])
def test_bare_host_becomes_the_sites(
    copied: Site, shop: Site, store: Store, recovery: str, module_hosts: Any, repositories: Any, kind: str
) -> None:
    """One with nothing but Salt by the commands of the docs, to the letter but for the queue, and within its time."""
    for site in (copied, shop):
        site.host.call("django.backup", site.name)
        site.host.call("django.offsite", site.name)
    shop.host.call("django.restore_drill", "shop", "offsite=True")
    before = data(copied), data(shop)
    host = module_hosts(kind=kind, name="web2" if kind == "ready" else "web3")
    new, new_shop = Site(host), Site(host, name="shop")
    new.sites, new.options, new_shop.options = copied.sites, copied.options, shop.options
    for path in (copied.repository.path, shop.repository.path):
        repositories(host, path)
    new.configure()
    if kind == "ready":  # the other one is bare until the right key comes
        host.write("/root/wrong.txt", store.host.run(["age-keygen"]).stdout, mode="0600")
        said = failure(new, "django.rebuild", "/root/wrong.txt")
        assert "opening the secrets" in said and not new.host.run(["ls", f"{new.root}/current"], check=False).stdout
        host.write("/root/recovery.txt", recovery, mode="0600")
        answer = host.call("django.rebuild", "/root/recovery.txt", "queue=True", timeout=1500)
    else:
        answer = by_the_docs(host, recovery)
    assert (answer["blog"]["release"], answer["shop"]["release"]) == (new.live, new_shop.live)
    assert (data(new), data(new_shop)) == before
    assert [status(site)["maintenance"] for site in (new, new_shop)] == ["", ""]
    assert redis(host, "LRANGE", "waiting", "0", "-1").split() == ["first", "second"]
    assert new.get("/").status_code == new_shop.get("/").status_code == 200
    again = new.apply()
    assert again.ok and not again.changed, again
    if kind == "ready":
        assert "has a release already" in failure(new, "django.rebuild", "/root/recovery.txt")


@pytest.mark.full
def test_limit_leaves_the_rest_of_the_uplink(copied: Site) -> None:
    """Of twelve megabytes that no one can compress."""
    backup = copied.options["backup"]
    took: dict[str | None, float] = {}
    for limit in ("200K", None):
        copied.deploy(backup={**backup, "offsite": {**backup["offsite"], "limit": limit}})
        big = f"head -c 12000000 /dev/urandom > {copied.root}/media/photos/big.jpg"
        copied.host.run(f"runuser -u blog -- sh -c '{big}'")
        copied.host.call("django.backup", "blog")
        began = time.monotonic()
        copied.host.call("django.offsite", "blog")
        took[limit] = time.monotonic() - began
        print(f"{limit}: {took[limit]:.1f} s")
    assert took["200K"] >= 52 and took[None] < took["200K"]


#: Makes the bucket, and a user that may read, write and list, and delete locks alone; prints the user's key.
POLICY = """
import boto3, json
policy = open("/root/policy.json").read()
url = {"endpoint_url": "http://127.0.0.1:9001", "region_name": "us-east-1"}
boto3.client("s3", **url).create_bucket(Bucket="backups")
iam = boto3.client("iam", **url)
iam.create_user(UserName="web1")
iam.put_user_policy(UserName="web1", PolicyName="copies", PolicyDocument=policy)
key = iam.create_access_key(UserName="web1")["AccessKey"]
print(json.dumps([key["AccessKeyId"], key["SecretAccessKey"]]))
"""


@pytest.fixture(scope="module")
def bucket(copied: Site) -> dict[str, Any]:
    """The options of an S3-compatible store, which obeys the policy of the docs."""
    host = copied.host
    host.run(["python3", "-m", "venv", "/opt/moto"])
    host.run(["/opt/moto/bin/pip", "install", "--quiet", *pins("s3")], timeout=300)
    # So many calls as POLICY has are allowed to all.
    start = ["systemd-run", "--unit=moto", "--collect", "--setenv=INITIAL_NO_AUTH_ACTION_COUNT=4"]
    host.run([*start, "/opt/moto/bin/moto_server", "-H", "127.0.0.1", "-p", "9001"])
    policy = re.search(r"```json\n(.*?)```", (ROOT / "docs/guides/offsite.md").read_text(), re.DOTALL)
    assert policy
    # moto asks for the right to HeadBucket, which at AWS comes with ListBucket.
    host.write("/root/policy.json", policy[1].replace('"s3:ListBucket"', '"s3:ListBucket", "s3:HeadBucket"'))
    host.run("until (: </dev/tcp/127.0.0.1/9001) 2>/dev/null; do sleep 0.2; done", timeout=300)
    login = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    key, secret = json.loads(host.run(["/opt/moto/bin/python", "-c", POLICY], environment=login).stdout)
    store = {"kind": "s3", "endpoint": "http://127.0.0.1:9001", "bucket": "backups", "key": key, "secret": secret}
    former = copied.options["backup"]["offsite"]
    return {**store, "password": PASSWORD, "recipients": former["recipients"], "drill": "daily"}


@pytest.mark.full
def test_store_may_be_s3_with_the_policy_of_the_docs(copied: Site, bucket: dict[str, Any]) -> None:
    copied.deploy(backup={"schedule": "daily", "offsite": bucket})
    copied.host.call("django.backup", "blog")
    copied.host.call("django.offsite", "blog")
    copied.host.call("django.restore_drill", "blog", "offsite=True")
    assert problems(copied) == []
    login = {"AWS_ACCESS_KEY_ID": bucket["key"], "AWS_SECRET_ACCESS_KEY": bucket["secret"]}
    login |= {"RESTIC_PASSWORD": PASSWORD, "RESTIC_REPOSITORY": "s3:http://127.0.0.1:9001/backups/blog"}
    restic = ["timeout", "60", "restic", "--no-cache"]
    snapshots = json.loads(copied.host.run([*restic, "snapshots", "--json"], environment=login).stdout)
    result = copied.host.run([*restic, "forget", snapshots[0]["id"]], environment=login, check=False)
    assert result.returncode != 0
    left = json.loads(copied.host.run([*restic, "snapshots", "--json"], environment=login).stdout)
    assert {one["id"] for one in left} == {one["id"] for one in snapshots}
    copied.deploy(backup={"schedule": "daily", "offsite": {**bucket, "secret": "grenadier-of-another"}})
    began = time.monotonic()
    said = failure(copied, "django.offsite", "blog")
    assert "Access Denied" in said and "let the key read, write and list the bucket" in said, said
    assert time.monotonic() - began < 60 * busy()
    copied.deploy(backup={"schedule": "daily", "offsite": bucket})


@pytest.mark.full
@pytest.mark.parametrize(
    ("signal", "cause"),
    [("STOP", "does not answer (timed out)"), ("KILL", "connection refused")],
    ids=["hangs", "refuses"],
)
def test_dead_store_is_named_within_a_minute(copied: Site, bucket: dict[str, Any], signal: str, cause: str) -> None:
    copied.host.call("django.backup", "blog")
    copied.host.run(["systemctl", "kill", f"--signal={signal}", "moto"])
    try:
        began = time.monotonic()
        said = failure(copied, "django.offsite", "blog")
        took = time.monotonic() - began
    finally:
        copied.host.run(["systemctl", "kill", "--signal=CONT", "moto"], check=False)
    assert cause in said and took < 60 * busy(), (said, took)
    assert {part.partition(" ")[0] for part in problems(copied) if cause in part} == {"copy", "check"}
