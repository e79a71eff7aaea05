from pathlib import Path

import django_host_mount
import django_host_proc
import pytest
from django_host_command import DeploymentError

MOUNTED = "583 156 0:57 /django {folder} rw,relatime,nosymfollow - tmpfs tmpfs rw\n"


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Return a folder of a host with an empty table of mounts."""
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text("1 1 0:1 / / rw - ext4 /dev/vda rw\n")
    monkeypatch.setattr(django_host_proc, "PROC", tmp_path / "proc")
    monkeypatch.setattr(django_host_mount, "UNITS", tmp_path)
    return folder


@pytest.fixture
def commands(host, monkeypatch):
    done = []

    def run(argv, *, doing):
        done.append(argv[1])
        if argv[1] == "enable":
            (django_host_proc.PROC / "self/mountinfo").write_text(MOUNTED.format(folder=host))

    monkeypatch.setattr(django_host_mount.django_host_command, "run", run)
    return done


def test_folder_is_mounted_once_without_links(host, commands):
    assert not django_host_mount.follows_no_link(host)
    assert django_host_mount.follow_no_link(host) == "" and commands == ["daemon-reload", "enable"]
    assert f"What={host}\nWhere={host}\n" in django_host_mount.unit(host).read_text()
    assert django_host_mount.follow_no_link(host) == "" and len(commands) == 2
    django_host_mount.remove(host)
    assert commands[2:] == ["disable", "daemon-reload"] and not django_host_mount.unit(host).exists()


def test_last_mount_of_a_folder_counts(host):
    table = django_host_proc.PROC / "self/mountinfo"
    table.write_text(MOUNTED.format(folder=host) + f"584 583 0:57 /django {host} rw - tmpfs tmpfs rw\n")
    assert not django_host_mount.follows_no_link(host)


def test_reason_is_returned_and_no_unit_left_when_systemd_refuses(host, monkeypatch):
    def run(argv, *, doing):
        if argv[1] == "enable":
            raise DeploymentError(f"{doing}: exit 32: mount: permission denied")

    monkeypatch.setattr(django_host_mount.django_host_command, "run", run)
    assert "permission denied" in django_host_mount.follow_no_link(host)
    assert not django_host_mount.unit(host).exists()


def test_old_kernel_is_named(host, monkeypatch):
    monkeypatch.setattr(django_host_mount.django_host_command, "run", lambda argv, *, doing: None)
    assert django_host_mount.follow_no_link(host) == "the kernel has no nosymfollow (Linux 5.10)"
    assert not django_host_mount.unit(host).exists()


@pytest.mark.parametrize(
    ("folder", "unit"),
    [
        ("/srv/django/blog/media", "srv-django-blog-media.mount"),
        ("/srv/django/my-site/.media", r"srv-django-my\x2dsite-.media.mount"),
        ("/.srv/a_b:c/ü", r"\x2esrv-a_b:c-\xc3\xbc.mount"),
    ],
)
def test_unit_has_the_name_of_systemd_escape(folder, unit):
    assert django_host_mount.unit(Path(folder)).name == unit


def test_blanks_in_the_table_of_mounts_are_read(host):
    row = f"584 583 0:57 / {host}/my\\040folder rw,noatime shared:1 - cifs //files1/my\\040share rw\n"
    (django_host_proc.PROC / "self/mountinfo").write_text(row)
    found = django_host_mount.mount(host / "my folder")
    assert found == (host / "my folder", ["rw", "noatime"], "cifs", "//files1/my share")
    assert django_host_proc.mounted_within(host) == [host / "my folder"]
    assert django_host_proc.mounted_within(host / "my") == [] and django_host_mount.mount(host) is None
