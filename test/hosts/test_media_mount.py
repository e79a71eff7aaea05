"""Uploads on a mount: what visitors get while it comes, goes, changes or is missing, and what is kept for ever."""

import re

import pytest
from lab import PRIVILEGED, CommandFailed, Host, Needs
from sites import Site

NEEDS = Needs(PRIVILEGED, "they mount disks")

pytestmark = pytest.mark.full

UNIT = "srv-django-blog-media.mount"
MEDIA = "/srv/django/blog/media"
#: Where a test sees what is in a device.
ASIDE = "/mnt"


def image(host: Host, name: str) -> str:
    """A disk of its own in a file: what is on it outlives mounts, hosts that boot, and sites."""
    path = f"/srv/{name}.img"
    host.run(f"truncate -s 32M {path} && mkfs.ext4 -q {path} && mount -o loop {path} {ASIDE}")
    host.run(f"rmdir {ASIDE}/lost+found && umount {ASIDE}")
    return path


def on(host: Host, path: str) -> str:
    """The files in an image that is mounted nowhere."""
    return host.run(f"mount -o loop {path} {ASIDE} && find {ASIDE} -type f; umount {ASIDE}").stdout


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    host = module_hosts(kind="ready")
    blog = Site(host, repositories(host), backup={"media": True})
    blog.device = image(host, "one")
    return blog


def mounted(blog: Site, **options: str) -> dict[str, object]:
    """`media` of the pillar."""
    return {"mount": {"device": blog.device, "type": "ext4", "options": "loop,noatime", **options}}


def upload(blog: Site, name: str) -> int:
    """Sign the guestbook with a file, and return the status of the answer."""
    browser = blog.browser()
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', browser.get("/sign/").text)[1]
    form = {"name": name, "message": name, "csrfmiddlewaretoken": token}
    answer = browser.post("/sign/", data=form, files={"attachment": (f"{name}.txt", name)})
    return int(answer.status_code)


def served(blog: Site, name: str) -> int:
    found = re.search(rf'"(/media/attachments/[^"]*{name}[^"]*)"', blog.get("/").text)
    return blog.get(found[1]).status_code if found else 0


def source(blog: Site) -> str:
    """What is mounted at the uploads, with its options."""
    return str(blog.host.run(f"findmnt --noheadings --output SOURCE,OPTIONS {MEDIA} || true").stdout)


def test_mount_of_a_live_site_takes_its_uploads(blog):
    blog.deploy()
    foreseen = blog.apply(test=True, media=mounted(blog))
    assert f"{blog.device} mounted" in str(foreseen["blog has its directories"].changes) and source(blog) == ""
    blog.deploy()
    assert "nosuid,nodev,noatime" in source(blog) and "/dev/loop" in source(blog)
    assert upload(blog, "first") == 302 and served(blog, "first") == 200
    assert not blog.deploy().changed
    assert not blog.apply(test=True).changed


def test_mount_and_site_are_there_after_a_boot(blog):
    blog.host.restart()
    assert "nosuid" in source(blog) and served(blog, "first") == 200
    assert upload(blog, "booted") == 302
    assert not blog.deploy().changed


def test_missing_mount_gets_no_release_and_no_file_below_it(blog):
    host = blog.host
    host.run(f"umount --lazy {MEDIA}")
    assert upload(blog, "during") == 302, "what runs keeps the mount that it was started with"
    assert host.run(["find", MEDIA, "-type", "f"]).stdout == ""
    assert host.run(["stat", "-c", "%U %a", MEDIA]).stdout == "root 700\n"
    for function in ("django.release", "django.backup"):
        refused = host.salt(function, "blog")
        assert refused.returncode and "nothing is mounted at /srv/django/blog/media" in refused.stdout + refused.stderr
    assert [*blog.deploy().changed] == ["blog has its directories"]
    assert served(blog, "during") == served(blog, "first") == 200 and not blog.deploy().changed


def test_command_waits_for_the_mount(blog):
    blog.host.run(f"umount --lazy {MEDIA}")
    blog.host.salt("django.manage", "blog", "check")
    assert "nosuid" in source(blog), "systemd mounts it for the command"


def test_boot_with_a_server_that_is_down_serves_no_half_site(blog):
    host = blog.host
    host.run(f"mv {blog.device} {blog.device}.away")
    with pytest.raises(CommandFailed, match=f"has booted with failed units:[^*]*{UNIT}"):
        host.restart()
    assert source(blog) == "" and blog.get().status_code >= 500
    host.run(f"mv {blog.device}.away {blog.device}")
    blog.deploy()
    assert served(blog, "first") == 200 and upload(blog, "again") == 302


def test_device_that_cannot_be_mounted_leaves_the_former_one(blog):
    refused = blog.apply(media=mounted(blog, device="/srv/none.img"))
    assert "/srv/none.img cannot be mounted at /srv/django/blog/media: mount: " in str(refused.failed)
    assert served(blog, "first") == 200 and upload(blog, "kept") == 302
    blog.deploy(media=mounted(blog))
    assert served(blog, "kept") == 200


def test_uploads_are_backed_up_and_not_restored_over_the_mount(blog):
    blog.host.call("django.backup", "blog")
    refused = blog.host.salt("django.restore", "blog", media="True")
    text = refused.stdout + refused.stderr
    assert "is a mount, which cannot be exchanged" in text and refused.returncode
    assert served(blog, "first") == 200


def test_mount_that_is_taken_away_keeps_its_files(blog):
    blog.deploy(media=None)
    assert source(blog) == "" and blog.host.run(f"systemctl cat {UNIT}", check=False).returncode
    assert "first" in on(blog.host, blog.device)
    assert upload(blog, "local") == 302 and served(blog, "local") == 200 and served(blog, "first") == 404
    assert not blog.deploy().changed


def test_files_are_not_hidden_by_a_mount(blog):
    for test in (True, False):
        refused = blog.apply(test=test, media=mounted(blog))
        assert "has files, such as attachments, which the mount of" in str(refused.failed)
    assert served(blog, "local") == 200 and source(blog) == ""
    command = f"mount -t ext4 -o loop {blog.device} {ASIDE} && cp -a {MEDIA}/. {ASIDE}/ && umount {ASIDE}"
    blog.host.run(f"{command} && mv {MEDIA} {MEDIA}.before")
    blog.deploy()
    assert served(blog, "local") == served(blog, "first") == 200


def test_data_on_the_mount_outlives_the_site(blog):
    blog.deploy(state="absent", remove_data=True)
    assert source(blog) == "" and not blog.host.testinfra.file(MEDIA).exists
    assert "first" in on(blog.host, blog.device) and "local" in on(blog.host, blog.device)
    assert blog.host.run("find /etc/systemd /srv/django -name '*blog*media*'").stdout == ""
    assert not blog.deploy().changed
