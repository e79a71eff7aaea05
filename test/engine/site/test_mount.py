"""Uploads on a mount of the formula or of the host itself, and what happens where it is missing."""

import errno
import os
import stat

import pytest
from django_formula.backup import backups
from django_formula.backup.dumps import Database
from django_formula.deploy import removal, step_instance
from django_formula.host import commands, folders, proc
from django_formula.host.commands import DeploymentError
from django_formula.process import systemd
from django_formula.release import instances
from django_formula.site import mount as site_mount
from django_formula.verbs import fleet
from engine.verbs.test_fleet import known

DEVICE = "files1:/export/blog"
MOUNT = {"device": DEVICE, "type": "nfs4", "options": "hard,noatime"}
MEDIA = {"media": {"mount": MOUNT}}
OWN = known() | {"media": {"shared": True}}


class Server:
    """A file server: its export takes the place of the folder while it is mounted there, and mountinfo has it."""

    def __init__(self, world, folder, monkeypatch):
        self.world, self.run = world, world.run
        self.export, self.below = folder / "export", folder / "below"
        self.table = folder / "proc/self/mountinfo"
        self.refuses: set[str] = set()
        self.done: list[str] = []
        self.tried: list[str] = []
        self.export.mkdir(mode=0o700)
        self.table.parent.mkdir(parents=True)
        monkeypatch.setattr(commands, "run", self.play)

    @property
    def media(self):
        return self.world.site.media.top

    @property
    def unit(self):
        return site_mount.unit(self.world.site)

    def mount(self, device=DEVICE):
        os.rename(self.media, self.below)
        os.rename(self.export, self.media)
        self.table.write_text(f"1 1 0:1 / / rw - ext4 /dev/vda rw\n583 1 0:57 / {self.media} rw - nfs4 {device} rw\n")

    def unmount(self):
        os.rename(self.media, self.export)
        os.rename(self.below, self.media)
        self.table.write_text("1 1 0:1 / / rw - ext4 /dev/vda rw\n")

    def play(self, argv, **options):
        if argv[0] == "umount":
            self.unmount()
        elif argv[:2] == ["systemctl", "start"] and argv[-1].endswith(".mount"):
            device = next(line[5:] for line in self.unit.read_text().splitlines() if line.startswith("What="))
            self.tried.append(device)
            if device in self.refuses:
                raise DeploymentError("systemctl start: exit 1")
            self.mount(device)
        if argv[0] == "umount" or argv[-1].endswith(".mount"):
            self.done.append(" ".join(argv[:2]))
        return "" if argv[0] == "umount" else self.run(argv, **options)


@pytest.fixture
def server(world, own_host, monkeypatch):
    return Server(world, own_host, monkeypatch)


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_uploads_are_mounted_and_a_second_apply_finds_nothing_to_do(world, server):
    world.options = MEDIA
    world.site.root.mkdir(parents=True)
    dry = world.apply(test=True)
    assert dry["site"][str(server.media)] == f"{DEVICE} mounted" and server.done == [] and not server.unit.exists()
    changes = world.apply()
    assert changes["site"][str(server.unit)] == "new"
    assert server.unit.name == f"{str(server.media)[1:].replace('-', chr(92) + 'x2d').replace('/', '-')}.mount"
    text = server.unit.read_text()
    assert f"What={DEVICE}\nWhere={server.media}\nType=nfs4\nOptions=hard,noatime,nosuid,nodev\n" in text
    assert server.done == ["systemctl start", "systemctl enable"]
    assert mode(server.media) == 0o2750, "a new export is given to the site"
    assert mode(server.below) == 0o700, "no process of the site writes below the mount"
    assert world.apply() == {} and world.apply(test=True) == {}
    assert len(server.done) == 2


def test_units_and_commands_of_a_release_wait_for_the_mount(world, server):
    world.options = MEDIA | {"workers": {"feed": {"kind": "command", "command": "manage.py feed"}}}
    world.apply()
    units = systemd.UNITS.glob("django-blog-0001*.service")
    assert [f"RequiresMountsFor={server.media}\n" in path.read_text() for path in units] == [True, True]
    runs = [command for command in world.commands if command[0] == "systemd-run" and "trial" not in str(command)]
    assert runs and all(f"--property=RequiresMountsFor={server.media}" in command for command in runs)


def test_site_without_a_mount_has_no_trace_of_it(world, server):
    world.apply()
    unit = (systemd.UNITS / "django-blog-0001.service").read_text()
    assert "RequiresMountsFor" not in unit and server.done == []
    assert not any("RequiresMountsFor" in str(command) for command in world.commands)
    assert world.site.config["media"] == {"max_upload": "75M", "protected": False, "download": False}


def test_a_live_site_gets_a_release_whose_units_wait_for_its_new_mount(world, server):
    world.apply()
    world.options = MEDIA
    assert "instance" in world.apply() and world.live.startswith("0002")
    world.options = {"media": {"mount": {**MOUNT, "options": None}}}
    world.apply()
    assert world.live.startswith("0003"), "a process keeps seeing the mount that was there when it started"
    assert server.done[2:] == ["umount --lazy", "systemctl show", "systemctl start"]
    assert "Options=nosuid,nodev\n" in server.unit.read_text()


def test_mount_that_would_hide_files_is_refused(world, server):
    world.apply()
    (server.media / "photo.jpg").touch()
    world.options = MEDIA
    for test in (True, False):
        with pytest.raises(DeploymentError) as error:
            world.apply(test=test)
        text = f"{server.media} has files, such as photo.jpg, which the mount of {DEVICE} would hide"
        assert error.value.message == f"site: {text}"
        assert f"mount -t nfs4 -o hard,noatime {DEVICE} /mnt && cp -a {server.media}/. /mnt/" in error.value.hint
    assert server.done == [] and not server.unit.exists() and mode(server.media) == 0o2750


def test_file_that_comes_just_before_the_mount_is_not_hidden(world, server, monkeypatch):
    world.apply()
    world.options = MEDIA
    make = folders.make

    def make_late(folder):
        if folder.path == server.media and folder.owner == "root":
            (server.media / "late.jpg").touch()
        make(folder)

    monkeypatch.setattr(folders, "make", make_late)
    with pytest.raises(DeploymentError, match=r"has files, such as late\.jpg"):
        world.apply()
    assert "systemctl start" not in server.done and not server.unit.exists() and mode(server.media) == 0o2750


def test_mount_that_fails_leaves_the_site_as_it_was(world, server):
    world.apply()
    world.options, server.refuses = MEDIA, {DEVICE}
    world.prints["journalctl"] = "mount.nfs4: access denied by server\nFailed to mount\n"
    with pytest.raises(DeploymentError) as error:
        world.apply()
    text = f"{DEVICE} cannot be mounted at {server.media}: mount.nfs4: access denied by server"
    assert error.value.message == f"site: {text}"
    assert not server.unit.exists() and mode(server.media) == 0o2750 and world.live.startswith("0001")


def test_former_mount_comes_back_where_another_one_fails(world, server):
    world.options = MEDIA
    world.apply()
    world.options, server.refuses = {"media": {"mount": {**MOUNT, "device": "files2:/blog"}}}, {"files2:/blog"}
    with pytest.raises(DeploymentError, match="files2:/blog cannot be mounted"):
        world.apply()
    assert f"What={DEVICE}\n" in server.unit.read_text() and proc.mount(server.media).device == DEVICE


def test_mount_that_is_taken_away_is_there_until_the_new_release_starts(world, server, monkeypatch):
    world.options = MEDIA
    world.apply()
    (server.media / "photo.jpg").touch()
    world.options, seen = {}, {}
    start = instances.start

    def started(site, release):
        seen["mounted"] = proc.mount(server.media)
        start(site, release)

    check = step_instance._configure

    def configured(deployment, release):
        seen["before"] = proc.mount(server.media)
        check(deployment, release)

    monkeypatch.setattr(instances, "start", started)
    monkeypatch.setattr(step_instance, "_configure", configured)
    world.apply()
    assert seen["before"] and not seen["mounted"] and world.live.startswith("0002")
    assert not server.unit.exists() and not os.path.lexists(site_mount._link(server.unit))
    assert (server.export / "photo.jpg").exists() and os.listdir(server.media) == [] and mode(server.media) == 0o2750
    assert "systemctl stop" not in server.done, "it would stop the active release"
    assert world.apply() == {}


def test_mount_is_back_where_the_release_without_it_does_not_start(world, server):
    world.options = MEDIA
    world.apply()
    world.options, world.fails = {}, {"enable --quiet --no-reload --now django-blog-0002": DeploymentError("no")}
    with pytest.raises(DeploymentError):
        world.apply()
    assert proc.mount(server.media) and server.unit.exists() and world.live.startswith("0001")
    assert mode(server.below) == 0o700
    world.fails = {}
    world.push("two")
    world.apply()
    assert not proc.mount(server.media) and not server.unit.exists()


def test_mount_that_went_is_mounted_again(world, server):
    world.options = MEDIA
    world.apply()
    server.unmount()
    assert world.apply() == {"site": {str(server.media): f"{DEVICE} mounted"}}
    assert proc.mount(server.media) and world.apply() == {}


def test_mount_that_went_and_is_refused_is_tried_once(world, server):
    world.options = MEDIA
    world.apply()
    server.unmount()
    server.refuses, server.tried = {DEVICE}, []
    with pytest.raises(DeploymentError, match="cannot be mounted"):
        world.apply()
    assert server.tried == [DEVICE], "each try may take two minutes"
    server.refuses = set()
    assert world.apply() == {"site": {str(server.media): f"{DEVICE} mounted"}}


def test_nothing_is_released_or_backed_up_without_the_mount(world, server):
    world.options = MEDIA | {"backup": {"media": True}}
    world.apply()
    server.unmount()
    site, live = world.site, world.last.release
    text = f"uploads of blog are to be on a mount, and nothing is mounted at {server.media}: {DEVICE} is missing"
    assert site_mount.problem(site) == text
    with pytest.raises(DeploymentError, match="nothing is mounted at"):
        backups.make(site, live, why="command", secrets=[])
    deployment = world.deployment()
    deployment.resume(live)
    deployment.is_new = True
    with pytest.raises(DeploymentError, match="nothing is mounted at"):
        list(step_instance.instance(deployment))
    deployment.lock.release()


def test_mount_of_the_host_itself_has_to_be_there(world, server):
    world.options = OWN
    text = f"uploads of blog are to be on a mount, and nothing is mounted at {server.media}"
    with pytest.raises(DeploymentError, match=text):
        world.apply()
    server.media.mkdir(parents=True)
    server.mount()
    world.apply()
    assert fleet.ready("blog")["uploads"] == "" and server.done == []
    server.unmount()
    assert fleet.ready("blog")["uploads"] == text


def test_mount_of_the_formula_can_become_one_of_the_host(world, server):
    world.options = known() | MEDIA
    world.apply()
    world.options = OWN
    assert "removed: the host mounts it itself" in world.apply()["site"].values()
    assert not server.unit.exists() and proc.mount(server.media) and "umount --lazy" not in server.done


def test_link_in_the_root_is_named(world, server, tmp_path):
    world.site.root.parent.mkdir(parents=True)
    world.site.root.parent.rename(tmp_path / "disk")
    world.site.root.parent.symlink_to(tmp_path / "disk")
    world.options = MEDIA
    with pytest.raises(DeploymentError, match=r"a link in it leads to .*/disk/blog, and systemd follows none"):
        world.apply()
    (tmp_path / "proc/self/mountinfo").write_text(f"5 1 0:5 / {tmp_path}/disk/blog/media rw - nfs4 x rw\n")
    assert proc.mount(server.media) and server.done == []


@pytest.mark.parametrize("unit", [False, True])
def test_mount_of_the_host_is_not_replaced(world, server, unit):
    world.apply()
    server.mount()
    if unit:
        server.unit.write_text("[Mount]\n")
    world.options = MEDIA
    with pytest.raises(DeploymentError, match=r"cannot be mounted at .*: .*(did not write|is mounted there)"):
        world.apply()
    assert server.done == []


@pytest.mark.parametrize("options", [MEDIA, OWN])
def test_data_on_a_mount_outlives_a_site_that_is_removed_with_its_data(world, server, options):
    world.options = options
    world.site.media.top.mkdir(parents=True)
    if options is OWN:
        server.mount()
    world.apply()
    (server.media / "photo.jpg").touch()
    world.options = options | {"state": "absent", "remove_data": True}
    site = world.site
    assert str(site.secrets) in removal.present(site)
    removal.remove(site, "a test")
    kept = server.media if options is OWN else server.export
    assert (kept / "photo.jpg").exists() and removal.present(site) == {}
    assert site.root.exists() is (options is OWN) and not server.unit.exists()
    assert not site.secrets.exists()


def test_mount_anywhere_below_a_path_keeps_it(world, server):
    world.apply()
    kept = world.site.shared.top / "archive/old"
    kept.mkdir(parents=True)
    server.table.write_text(f"583 1 0:57 / {kept.parent} rw - nfs4 {DEVICE} rw\n")
    world.options = {"state": "absent", "remove_data": True}
    removal.remove(world.site, "a test")
    assert kept.exists() and not world.site.media.top.exists() and removal.present(world.site) == {}


OWNERS = {
    "the site's": ([os.getuid(), os.getgid(), 0o2750, True], ""),
    "readable for all": ([4711, 4711, 0o777, True], ""),
    "closed to the proxy": ([os.getuid(), 4711, 0o700, True], f"{os.getuid()}:4711 0700, not blog:www-data 2750"),
    "of root": ([0, 0, 0o755, False], "0:0 0755, not blog:www-data 2750"),
    "squashed": ([65534, 65534, 0o755, False], "65534:65534 0755, not blog:www-data 2750"),
}


@pytest.mark.parametrize(("status", "wrong"), OWNERS.values(), ids=[*OWNERS])
def test_owner_of_the_mount_is_left_alone_where_it_fits(world, server, monkeypatch, status, wrong):
    world.options = MEDIA
    monkeypatch.setattr(site_mount, "_status", lambda path: status)
    assert site_mount._wrong_owner(world.site) == wrong


def test_another_number_of_the_user_is_named_with_its_key(world, server, monkeypatch):
    world.options = OWN
    world.site.media.top.mkdir(parents=True)
    server.mount()
    monkeypatch.setattr(site_mount, "_status", lambda path: [4711, 33, 0o2750, False])
    text = f"the mount {server.media} belongs to the user 4711, and blog is the user {os.getuid()} on this host"
    with pytest.raises(DeploymentError, match=text) as error:
        world.apply()
    assert "django:sites:blog:uid" in error.value.hint and site_mount.problem(world.site) == text


def test_root_that_may_not_change_the_owner_says_what_to_do_on_the_server(world, server, monkeypatch):
    world.options = MEDIA
    make = folders.make

    def make_squashed(folder):
        if folder.path == server.media and folder.owner != "root" and proc.mount(folder.path):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        make(folder)

    monkeypatch.setattr(folders, "make", make_squashed)
    monkeypatch.setattr(site_mount, "_status", lambda path: [65534, 65534, 0o755, False])
    with pytest.raises(
        DeploymentError, match=r"root cannot give the mount .* to blog: Operation not permitted"
    ) as error:
        world.apply()
    assert f"chown {os.getuid()}:{os.getgid()} FOLDER" in error.value.hint


def test_uploads_on_a_mount_are_not_exchanged_for_a_folder(world, server):
    world.options = MEDIA
    world.apply()
    database = Database(world.site, "media", "media", str(server.media))
    with pytest.raises(DeploymentError, match="is a mount, which cannot be exchanged") as error:
        backups.DUMPERS["media"].check_swappable(database)
    assert f"tar -x -C {server.media} <" in error.value.hint


def test_supervisor_has_no_mount_to_wait_for(world, server):
    world.process = "supervisor"
    with pytest.raises(AssertionError, match="media:mount — supported with systemd only"):
        world.options = MEDIA
        assert world.site
