"""What each file of a proxy has, so that no site reaches another one by it, and no visitor removes a header."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from readers import read_apache, read_nginx

RENDER = Path(__file__).parent
NGINX = sorted(path for path in RENDER.glob("*/nginx/django/*.conf") if path.is_file())
APACHE = sorted(path for path in RENDER.glob("*/apache2/django/*.conf") if path.is_file())


def name_of(path: Path) -> str:
    return f"{path.relative_to(RENDER).parts[0]} {path.stem}"


def locations(block: list[Any]) -> Iterator[tuple[str, list[Any]]]:
    for words, inside in block:
        if words.startswith("location"):
            yield words, inside
            yield from locations(inside)


@pytest.mark.parametrize("path", NGINX, ids=name_of)
def test_internal_redirect_reaches_a_location_of_nginx_from_its_own_site_only(path: Path) -> None:
    found = [*locations(read_nginx(path.read_text()))]
    has_uploads = any(name.endswith(f"/.django-media/{path.stem}/") for name, _inside in found)
    seen = 0
    for name, inside in found:
        directives = [words for words, _inside in inside]
        passes = [words for words in directives if re.match("(proxy|uwsgi)_pass ", words)]
        if passes or "internal" in directives or " @" in name:
            rules = [words for words in directives if re.match("(if|set|rewrite|return|break)\\b", words)]
            equal = "!=" if "django-media" in name else "!~"
            allowed = path.stem if equal == "!=" else f"^({path.stem})?$"
            assert rules[0].replace(" )", ")") == f"if ($django_site {equal} {allowed})", name
            seen += 1
        ignored = {f"{way}_ignore_headers X-Accel-Redirect" for way in ("proxy", "uwsgi")} & {*directives}
        assert bool(ignored) is bool(passes and not has_uploads), name
        assert not passes or f"set $django_site {path.stem}" in directives
    assert seen > 1


@pytest.mark.parametrize("path", APACHE, ids=name_of)
def test_connection_names_no_header_before_apache_sets_one(path: Path) -> None:
    directives = read_apache(path.read_text())
    first = next(number for number, words in enumerate(directives) if words[0] == "RequestHeader")
    assert [words[1:3] for words in directives[first : first + 2]] == [["set", "Connection"], ["unset", "Connection"]]
    paths = [words[1].strip('"') for words in directives if words[0] == "XSendFilePath"]
    assert len(paths) <= 1 and all(one.endswith("/media") for one in paths)


@pytest.mark.parametrize("path", sorted(RENDER.glob("balancer/**/django.cfg")), ids=str)
def test_connection_names_no_header_before_haproxy_sets_one(path: Path) -> None:
    frontends = re.findall(r"(?ms)^frontend (\S+)$(.*?)(?=^\S|\Z)", path.read_text())
    for name, text in frontends:
        if name != "django-cached":
            assert text.index("del-header Connection") < text.index("set-header X-Forwarded-For"), name
    assert frontends
