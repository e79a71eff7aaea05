"""A changed pillar value does what it means and no more: a release of the same commit, files of nginx, or a record."""

import pytest
from products import shortened

RELEASE = {
    *("blog has its source", "blog has its virtualenv", "blog is built", "blog has its settings"),
    *("blog has its static files", "blog has its instance", "blog is live", "blog is recorded"),
}
PROXY = {"blog is served"}
NOTHING: set[str] = set()
#: What a dry run cannot know without a start of the new release.
POSSIBLE = {"blog has its database migrated"}

TWO = ["blog.example.org", "www.example.org"]
CASES = {
    "settings": ({"settings": {"TIME_ZONE": "Asia/Shanghai"}}, RELEASE),
    "environment": ({"environment": {"SITE_NAME": 'Ray & Elspeth: 100% "quoted" $HOME'}}, RELEASE),
    "server": ({"server": {"processes": 3}}, RELEASE),
    "resources": ({"resources": {"MemoryMax": "512M"}}, RELEASE),
    "a domain more": ({"domains": TWO}, RELEASE | PROXY),
    "a domain less": ({"domains": ["blog.example.org"]}, RELEASE | PROXY),
    "a redirect": ({"redirect_domains": ["old.example.org"]}, PROXY),
    "proxy option": ({"proxy": {"options": {"keepalive_timeout": "65s"}}}, PROXY),
    "uploads": ({"media": {"max_upload": "1M"}}, PROXY),
    "expires": ({"static": {"expires": "30d"}}, PROXY),
    "keep": ({"releases": {"keep": 3}}, NOTHING),
    "health": ({"health": {"path": "/", "timeout": "5s"}}, NOTHING),
    "timeouts": ({"timeouts": {"fetch": "5s"}}, NOTHING),
}


#: The options that the cases change.
CHANGED = {name for changes, _means in CASES.values() for name in changes}


@pytest.fixture(scope="module")
def usual(blog) -> dict[str, object]:
    """The options of the site before any test changed them."""
    return dict(blog.options)


def together(*names: str) -> tuple[dict[str, object], set[str]]:
    """Several changes as one."""
    changes, means = {}, set()
    for name in names:
        changes |= CASES[name][0]
        means |= CASES[name][1]
    return changes, means


#: The default run makes these changes; --all each alone too.
TOGETHER = {
    "all of a release": together("settings", "environment", "server", "resources", "a domain more"),
    "all of the proxy": together("a redirect", "proxy option", "uploads", "expires"),
    "all that is recorded only": together("keep", "health", "timeouts"),
}


@pytest.mark.parametrize("case", shortened([*TOGETHER, *CASES], *TOGETHER))
def test_a_change_does_what_it_means(blog, usual, case):
    changes, means = {**TOGETHER, **CASES}[case]
    former = {**dict.fromkeys(CHANGED), **usual, **({"domains": TWO} if case == "a domain less" else {})}
    if any(blog.options.get(name) != value for name, value in former.items()):
        blog.deploy(**former)
    before = blog.live
    foreseen = blog.apply(test=True, **changes)
    assert not foreseen.failed and blog.live == before
    applied = blog.deploy()
    assert applied.changed.keys() == {"blog has its directories"} | means
    assert foreseen.changed.keys() - POSSIBLE == applied.changed.keys(), "the dry run foresees other steps"
    assert (blog.live != before) == bool(means & RELEASE)
    assert not blog.apply().changed


@pytest.mark.full
def test_settings_are_in_effect(blog):
    blog.deploy(settings={"TIME_ZONE": "Asia/Tokyo"})
    assert (
        blog.manage("""shell -c "from django.conf import settings; print(settings.TIME_ZONE)" """).splitlines()[-1]
        == "Asia/Tokyo"
    )


def test_the_environment_is_in_effect_to_the_byte(blog):
    value = 'Ray & Elspeth: 100% "quoted" \'single\' $HOME \\ `id` <>\n{"a": [1]}'
    blog.deploy(environment={"SITE_NAME": value, "EMPTY": "", "FLAG": True, "SOURCE": {"from": "commit"}})
    variables = blog.host.read(f"/proc/{blog.answering['pid']}/environ").split("\0")
    expected = {f"SITE_NAME={value}", "EMPTY=", "FLAG=true", f"SOURCE={blog.record()['commit']}"}
    assert expected <= set(variables)


@pytest.mark.full
def test_processes_are_in_effect(blog):
    blog.deploy(server={"processes": 4})
    master = blog.host.run(["cat", f"{blog.run}/pid"]).stdout.strip()
    assert len(blog.host.run(["ps", "-o", "pid=", "--ppid", master]).stdout.split()) == 4


@pytest.mark.full
def test_domains_are_in_effect(blog):
    blog.deploy(domains=["blog.example.org", "www.example.org"], redirect_domains=["old.example.org"])
    assert blog.host.http("/", "www.example.org").status_code == 200
    moved = blog.host.http("/sign/?a=1", "old.example.org")
    assert (moved.status_code, moved.headers["Location"]) == (301, "http://blog.example.org/sign/?a=1")
    blog.deploy(domains=["blog.example.org"], redirect_domains=[])
    for gone in ("www.example.org", "old.example.org"):
        assert not blog.host.testinfra.file(f"/etc/nginx/sites-enabled/{gone}").exists


def test_the_limit_of_uploads_is_in_effect(blog):
    blog.deploy(media={"max_upload": "1M"})
    assert blog.browser().post("/sign/", files={"attachment": ("a.txt", b"a" * 1_500_000)}).status_code == 413


@pytest.mark.full
def test_packages_of_the_system_are_installed_without_a_release(blog):
    before = blog.live
    applied = blog.deploy(packages=["gettext"])
    assert applied.changed.keys() == {"The packages of the sites are installed", "blog has its directories"}
    assert blog.live == before and blog.host.run("command -v msgfmt").returncode == 0


def test_what_is_wrong_in_the_pillar_is_said_before_anything_changes(blog):
    applied = blog.apply(server={"kindd": "uwsgi"}, domains="blog.example.org")
    assert list(applied.failed) == ["The pillar has errors"] and applied.returncode != 0
    comment = applied["The pillar has errors"].name
    assert 'django:sites:blog:server:kindd — unknown option, did you mean "kind"?' in comment
    assert "django:sites:blog:domains — expected a list" in comment
    assert "Traceback" not in applied.stdout + applied.stderr
    assert len(applied.states) == 1
