"""Pages of the project for errors of the proxy: read from a release, and installed."""

import pytest
from django_formula.host.commands import DeploymentError
from django_formula.proxy import page as proxy_page


@pytest.fixture
def released(make_site, tmp_path):
    """A site and its release, with two pages in the project."""

    def make(**pages):
        site = make_site(proxy={"error_pages": {name.removeprefix("_"): page for name, page in pages.items()}})
        release = site.releases / "0001-a"
        (release / "source/web/errors").mkdir(parents=True, exist_ok=True)
        for name in ("404", "502"):
            (release / f"source/web/errors/{name}.html").write_text(f"{name} of the project")
        return site, release

    return make


def test_error_pages_are_installed_changed_and_removed(released):
    site, release = released(_404="errors/404.html", _502="errors/502.html")
    wanted = proxy_page.of_errors(site, release, "web")
    paths = [str(site.errors / name) for name in ("404.html", "502.html")]
    assert proxy_page.differences(site, wanted) == dict.fromkeys(paths, "new")
    proxy_page.install(site, wanted)
    proxy_page.remove_stale(site, wanted)
    assert proxy_page.differences(site, wanted) == {}
    assert [path.stat().st_mode & 0o777 for path in (site.errors, *sorted(site.errors.iterdir()))] == [
        *(0o755, 0o644, 0o644)
    ]
    (release / "source/web/errors/404.html").write_text("another")
    site, release = released(_404="errors/502.html")
    wanted = proxy_page.of_errors(site, release, "web")
    assert proxy_page.differences(site, wanted) == {paths[0]: "changed", paths[1]: "removed"}
    proxy_page.install(site, wanted)
    assert (site.errors / "502.html").exists(), "nginx names it yet"
    proxy_page.remove_stale(site, wanted)
    assert [path.name for path in site.errors.iterdir()] == ["404.html"]
    assert (site.errors / "404.html").read_text() == "502 of the project"
    site, release = released()
    assert proxy_page.of_errors(site, release, "web") == {}
    proxy_page.install(site, {})
    proxy_page.remove_stale(site, {})
    assert not site.errors.exists()


def test_missing_error_page_is_refused(released):
    site, release = released(_404="errors/lost.html")
    with pytest.raises(DeploymentError) as caught:
        proxy_page.of_errors(site, release, "web")
    assert caught.value.message == (
        "django:sites:blog:proxy:error_pages:404: there is no file errors/lost.html in the project"
    )


def test_error_page_that_is_a_link_is_refused(released, tmp_path):
    site, release = released(_404="errors/404.html")
    (tmp_path / "secret").write_text("hunter2")
    (release / "source/web/errors/404.html").unlink()
    (release / "source/web/errors/404.html").symlink_to(tmp_path / "secret")
    with pytest.raises(DeploymentError, match="there is no file"):
        proxy_page.of_errors(site, release, "web")
