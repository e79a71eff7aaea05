from pathlib import Path

import pytest
from django_formula.host import mounts, proc, units
from django_formula.host.commands import DeploymentError

MOUNTED = "583 156 0:57 /django {folder} rw,relatime,nosymfollow - tmpfs tmpfs rw\n"


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Return a folder of a host with an empty table of mounts."""
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text("1 1 0:1 / / rw - ext4 /dev/vda rw\n")
    monkeypatch.setattr(proc, "PROC", tmp_path / "proc")
    monkeypatch.setattr(mounts, "UNITS", tmp_path)
    return folder


@pytest.fixture
def commands(host, monkeypatch):
    """What is run on the host; a mount is in the table afterwards, in the options that the host knows."""
    done = []
    table, known = proc.PROC / "self/mountinfo", {"options": "rw,nosymfollow", "refuses": ""}

    def run(argv, *, doing):
        done.append(" ".join(argv[:2]))
        if done[-1] == known["refuses"]:
            raise DeploymentError(f"{doing}: exit 32: mount: permission denied")
        if argv[0] == "mount":
            table.write_text(f"583 156 0:57 / {argv[-1]} {known['options']} - tmpfs tmpfs rw\n")
        elif argv[1] == "enable":
            table.write_text(MOUNTED.format(folder=host))

    monkeypatch.setattr(mounts.commands, "run", run)
    monkeypatch.setattr(mounts, "SCRATCH", host)
    return done, known


def test_folder_is_mounted_once_without_links(host, commands):
    done, _known = commands
    assert not mounts.follows_no_link(host)
    assert mounts.follow_no_link(host) == ""
    assert done[2:] == ["systemctl daemon-reload", "systemctl enable"] and done[0] == "mount --bind"
    assert f"What={host}\nWhere={host}\n" in mounts.unit(host).read_text()
    assert mounts.follow_no_link(host) == "" and len(done) == 4
    mounts.remove(host)
    assert done[4:] == ["systemctl disable", "systemctl daemon-reload"] and not mounts.unit(host).exists()


def test_last_mount_of_a_folder_counts(host):
    table = proc.PROC / "self/mountinfo"
    table.write_text(MOUNTED.format(folder=host) + f"584 583 0:57 /django {host} rw - tmpfs tmpfs rw\n")
    assert not mounts.follows_no_link(host)


def test_no_unit_is_written_where_the_host_may_not_mount(host, commands):
    """To stop the unit of a mount stops each site with a socket below it, where the mount never was."""
    done, known = commands
    known["refuses"] = "mount --bind"
    assert "permission denied" in mounts.follow_no_link(host)
    assert done == ["mount --bind"] and not mounts.unit(host).exists() and not [*host.iterdir()]


def test_nothing_is_stopped_when_systemd_does_not_mount(host, commands, monkeypatch):
    done, known = commands
    known["refuses"] = "systemctl enable"
    options = []
    run = units.control
    monkeypatch.setattr(units, "control", lambda *words: (options.extend(words), run(*words)))
    assert "permission denied" in mounts.follow_no_link(host)
    assert done[-2:] == ["systemctl disable", "systemctl daemon-reload"]
    assert options.count("--now") == 1 and not mounts.unit(host).exists()


def test_old_kernel_is_named(host, commands):
    done, known = commands
    known["options"] = "rw"
    assert mounts.follow_no_link(host) == "the kernel has no nosymfollow (Linux 5.10)"
    assert done == ["mount --bind", f"umount {done[1].split()[1]}"] and not mounts.unit(host).exists()


@pytest.mark.parametrize(
    ("folder", "unit"),
    [
        ("/srv/django/blog/media", "srv-django-blog-media.mount"),
        ("/srv/django/my-site/.media", r"srv-django-my\x2dsite-.media.mount"),
        ("/.srv/a_b:c/ü", r"\x2esrv-a_b:c-\xc3\xbc.mount"),
    ],
)
def test_unit_has_the_name_of_systemd_escape(folder, unit):
    assert mounts.unit(Path(folder)).name == unit


def test_blanks_in_the_table_of_mounts_are_read(host):
    row = f"584 583 0:57 / {host}/my\\040folder rw,noatime shared:1 - cifs //files1/my\\040share rw\n"
    (proc.PROC / "self/mountinfo").write_text(row)
    found = proc.mount(host / "my folder")
    assert found == (host / "my folder", ["rw", "noatime"], "cifs", "//files1/my share")
    assert proc.mounted_within(host) == [host / "my folder"]
    assert proc.mounted_within(host / "my") == [] and proc.mount(host) is None
