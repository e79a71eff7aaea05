"""Where the pillar's index is the only one, a project's requirements and uv's configuration name no other."""

import json

import pytest
from django_formula.virtualenv import project_indexes, virtualenvs
from trees import write_tree

URL = "https://pypi.example.org/simple"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("requirements.txt", "-i https://a.org/simple\ndjango\n", "django\n"),
        ("requirements.txt", "--index-url=https://a.org/simple  # ours\r\ndjango\n", "django\n"),
        ("requirements.txt", "django\n--extra-index-url https://a.org/simple\nours\n", "django\nours\n"),
        ("requirements.txt", "-f https://a.org/wheels\n-f ./wheels\ndjango", "-f ./wheels\ndjango"),
        ("requirements.txt", "-ihttps://a.org/simple\n-r base.txt\n", "-r base.txt\n"),
        (
            "pyproject.toml",
            '[[tool.uv.index]]\nname = "own"\nurl = "https://a.org/simple"\nformat = "flat"\nexplicit = true\n'
            '[tool.uv.sources]\nours = { index = "own" }\nx = { url = "https://a.org/x.whl" }\n',
            f'[[tool.uv.index]]\nname = "own"\nurl = "{URL}"\nexplicit = true\n'
            '[tool.uv.sources]\nours = { index = "own" }\nx = { url = "https://a.org/x.whl" }\n',
        ),
        (
            "pyproject.toml",
            '[project]\nname = "x"\n[tool.uv]\nindex-url = "https://a.org/simple"\nextra-index-url = [\n'
            '  "https://b.org/simple",\n]\nfind-links = ["./wheels"]\nno-binary = true\n'
            "index = [{name = 'own', url = 'https://a.org/simple'}]\n",
            '[project]\nname = "x"\n[tool.uv]\nfind-links = ["./wheels"]\nno-binary = true\n'
            f"index = [{{name = 'own', url = \"{URL}\"}}]\n",
        ),
        (
            "uv.toml",
            'index-url = "https://a.org/simple"\n[pip]\nextra-index-url = ["https://a.org"]\n[[index]]\nurl = "x"\n',
            f'[pip]\n[[index]]\nurl = "{URL}"\n',
        ),
        ("pyproject.toml", '[tool.poetry.source]\nurl = "https://a.org"\n', None),
    ],
)
def test_index_of_the_project_is_replaced(tmp_path, name, text, expected):
    work = write_tree(tmp_path / "work", {name: text, "base.txt": "django\n"})
    project_indexes.replace(work, [name], URL)
    assert (work / name).read_text() == (text if expected is None else expected)


def test_included_requirements_and_configuration_of_a_project_below_are_rewritten(tmp_path):
    files = {
        "src/requirements.txt": "-r ../base.txt\n",
        "base.txt": "--extra-index-url https://a.org/simple\ndjango\n",
        "src/uv.toml": 'index-url = "https://a.org/simple"\n',
    }
    work = write_tree(tmp_path / "work", files)
    project_indexes.replace(work, ["src/requirements.txt"], URL)
    assert [(work / name).read_text() for name in files] == ["-r ../base.txt\n", "django\n", ""]


PIPFILE = '{"_meta": {"sources": [{"url": "https://a.org/simple"}]}, "default": {"ours": {"version": "==1"}}}'
POETRY = (
    '[[package]]\nname = "ours"\nversion = "1"\n[package.source]\ntype = "legacy"\nurl = "https://a.org/simple"\n'
    'reference = "a"\n'
)


@pytest.mark.parametrize(("name", "text"), [("Pipfile.lock", PIPFILE), ("poetry.lock", POETRY)])
@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ({}, "--extra-index-url https://a.org/simple\nours==1\n"),
        ({"url": URL, "only": False}, "--extra-index-url https://a.org/simple\nours==1\n"),
        ({"url": URL}, "ours==1\n"),
    ],
)
def test_source_of_a_lock_file_is_used_unless_the_pillar_has_the_only_index(
    make_site, tmp_path, name, text, index, expected
):
    work = write_tree(tmp_path / "work", {name: text, "requirements.txt": "-i https://a.org/simple\n"})
    arguments = virtualenvs._required(make_site(index=index), work, [name, "requirements.txt"])
    assert arguments == ["--requirement", f"{work}/.{name}.txt", "--requirement", f"{work}/requirements.txt"]
    assert (work / f".{name}.txt").read_text() == expected
    assert (work / "requirements.txt").read_text() == ("" if index == {"url": URL} else "-i https://a.org/simple\n")


def test_pypi_is_that_of_the_host(make_site, tmp_path):
    """Which may be a mirror of it: no name of PyPI, that of today or a former one, takes its place."""
    lines = "-i https://pypi.org/simple\n--extra-index-url=http://pypi.python.org/simple\n--extra-index-url https://a.org/s\n"
    sources = [{"name": "pypi", "url": url} for url in ("https://pypi.python.org/simple", "https://b.org/simple")]
    pipfile = {"_meta": {"sources": sources}, "default": {"django": {"version": "==5.2"}}}
    files = {"requirements.txt": f"{lines}-r more.txt\n", "more.txt": lines, "Pipfile.lock": json.dumps(pipfile)}
    work = write_tree(tmp_path / "work", files)
    virtualenvs._required(make_site(), work, ["requirements.txt", "Pipfile.lock"])
    assert (work / "requirements.txt").read_text() == "--extra-index-url https://a.org/s\n-r more.txt\n"
    assert (work / "more.txt").read_text() == "--extra-index-url https://a.org/s\n"
    assert (work / ".Pipfile.lock.txt").read_text() == "--extra-index-url https://b.org/simple\ndjango==5.2\n"


@pytest.mark.parametrize(
    ("index", "registries", "expected"),
    [
        ({}, ["https://pypi.org/simple"], []),
        ({}, ["https://pypi.org/simple", "https://a.org/simple", "../wheels"], ["https://a.org/simple"]),
        (
            {"url": URL, "only": False},
            ["https://b.org", "https://a.org", "https://a.org"],
            ["https://a.org", "https://b.org"],
        ),
        ({"url": URL}, ["https://a.org/simple"], []),
    ],
)
def test_registries_of_a_uv_lock_are_used(make_site, tmp_path, index, registries, expected):
    lock = "".join(f'[[package]]\nname = "a"\nsource = {{ registry = "{url}" }}\n' for url in registries)
    work = write_tree(tmp_path / "work", {"src/uv.lock": lock})
    arguments = virtualenvs._required(make_site(index=index), work, ["src/uv.lock"])
    exported = ["--requirement", f"{work}/src/.uv.lock.txt"]
    indexes = work / "src/.uv.lock.indexes.txt"
    if expected:
        assert indexes.read_text() == "".join(f"--extra-index-url {url}\n" for url in expected)
        assert arguments == ["--requirement", str(indexes), *exported, "--index-strategy", "unsafe-best-match"]
    else:
        assert arguments == exported and not indexes.exists()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("pyproject.toml", '[[tool.uv.index]]\nurl = "https://a.org/simple"\n', True),
        ("src/uv.toml", "index-url = 'https://a.org/simple'\n", True),
        ("pyproject.toml", "[tool.uv]\nindex = [{ url = 'https://a.org' }]\n", True),
        ("pyproject.toml", "[project]\nname = 'index'\n[tool.uv]\nno-binary = true  # of the index\n", False),
        ("elsewhere/uv.toml", "index-url = 'https://a.org/simple'\n", False),
    ],
)
def test_indexes_of_a_project_are_seen(tmp_path, name, text, expected):
    work = write_tree(tmp_path, {name: text, "src/requirements.txt": ""})
    assert project_indexes.are_configured(work, ["src/requirements.txt"]) is expected
