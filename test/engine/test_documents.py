"""The pages: links have targets, pillars in them are valid, verbs, steps and errors have their entries."""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faults
import parsed
import pytest
import yaml
from django_formula.pillar import compiler
from django_formula.process import sandbox, trial
from engine.database import test_served
from specimen import FACTS, configured

ROOT = Path(__file__).parents[2]
TREE = ROOT / "engine/django_formula"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
#: Paragraphs of the next version in CHANGELOG.md, as links in them are.
CHANGES = sorted((ROOT / "changes").glob("*.md"))
SCHEMA = yaml.safe_load((ROOT / "django/schema.yaml").read_text())
PLATFORMS = yaml.safe_load((ROOT / "django/platforms.yaml").read_text())
DEBIAN = {"os_family": "Debian", "osmajorrelease": 12, "init": "systemd"}
#: What troubleshooting.md quotes of other programs: Django, database servers, nginx, Salt, systemd, uv.
FOREIGN = {
    "Connection refused",
    "unsupported startup parameter",
    "query_wait_timeout",
    "Access denied for user",
    "Can't connect to",
    "Error loading MySQLdb module",
    "Peer authentication",
    "Error loading psycopg2 or psycopg module",
    "Unknown database",
    "Unknown server host",
    "connection to server",
    'database "',
    '" does not exist',
    "installing mysqlclient",
    "is applied before its dependency",
    "default for column",
    "cannot be cast automatically to type",
    "permission denied for schema public",
    "No permissions to access",
    "No solution found",
    "'setuptools'",
    "No module named 'pkg_resources'",
    "No space left on device",
    "not enough space available on /run",
    "df -h /run",
    "df -i /tmp",
    "Rendering SLS '",
    "These values could not be changed: {'home'",
    'The function "state.apply" is running as PID',
    "is not available",
    "unable to open database file",
    "password authentication failed for user",
    "cannot open /run/secrets/environment",  # dash
}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


#: What has examples for people.
EXAMPLES = [*PAGES, *CHANGES, *(ROOT / "examples").rglob("*.sls"), ROOT / "pillar.example", ROOT / "django/schema.yaml"]


def test_references_to_secrets_have_a_profile_a_path_and_a_key():
    """Drivers of stores need all three."""
    named = [(name(page), uri) for page in EXAMPLES for uri in re.findall(r"sdb://\w[\w/.…-]*", page.read_text())]
    assert [(page, uri) for page, uri in named if not re.fullmatch(r"sdb://(\w+(/\w+){2,}|\w+/…)", uri)] == []


def test_links_have_targets():
    broken = []
    for page in [*PAGES, *CHANGES]:
        folder = ROOT if page in CHANGES else page.parent
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            path, _mark, anchor = link.partition("#")
            target = (folder / path).resolve() if path else page
            if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target))):
                broken.append((name(page), link))
    assert not broken


def test_lines_are_short():
    """All but rows of tables, which cannot be broken, and the generated options.md."""
    lines = [
        (name(page), line) for page in PAGES if page.name != "options.md" for line in page.read_text().splitlines()
    ]
    assert [(page, line) for page, line in lines if len(line) > 120 and line[0] != "|"] == []


def test_every_page_is_in_an_index():
    docs = ROOT / "docs"
    indexes = {docs / "decisions": docs / "decisions/README.md"}
    missing = [
        name(page)
        for page in PAGES
        if docs in page.parents
        and page.name != "README.md"
        and f"({page.relative_to((index := indexes.get(page.parent, docs / 'README.md')).parent)})"
        not in index.read_text()
    ]
    assert missing == []


def linked(page: Path) -> set[Path]:
    """Return the pages that a page links to."""
    links = re.findall(r"\]\(([^)\s#]+\.md)(?:#[\w-]*)?\)", page.read_text())
    return {(page.parent / link).resolve() for link in links if "://" not in link}


def test_every_page_is_reached_from_the_readme():
    reached, ahead = set[Path](), {ROOT / "README.md"}
    while ahead:
        page = ahead.pop()
        reached.add(page)
        ahead |= linked(page) - reached
    assert sorted(name(page) for page in {*PAGES} - reached) == []


def test_the_order_of_reading_begins_with_the_first_site():
    """It is numbered, and leads to pages of the parts that the index has."""
    page = (ROOT / "docs/README.md").read_text()
    order = page[page.index("## Order of reading") : page.index("## Getting started")]
    assert re.findall(r"^(\d+)\. \[", order, re.MULTILINE) == [str(number + 1) for number in range(7)]
    first, second, *_rest = re.findall(r"\]\(([\w/-]+\.md)\)", order)
    assert (first, second) == ("getting-started/first-site.md", "getting-started/ways-to-run.md")
    parts = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert parts == ["Order of reading", "Getting started", "Guides", "Reference", "Internals"]


def test_the_glossary_defines_each_term_once():
    """In order, with each of the nouns that the pages share."""
    terms = [term for term, _definition in rows_of("docs/reference/glossary.md", 2)[1:]]
    assert terms == sorted(set(terms), key=str.lower)
    shared = {"active release", "build user", "drain", "health check", "instance", "maintenance", "on hold", "overlay"}
    shared |= {"plan", "preflight", "process manager", "release", "rollback", "sandbox", "site", "step", "switch"}
    assert shared | {"switch report", "takeover", "verb", "wall"} <= {*terms}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100


def blocks() -> list[Any]:
    """Return what pages have in YAML: pillars, and pieces of a site, but for other files, whose first line names them.

    A block of lines of which several have the same key has alternatives.
    """
    found = []
    for page in PAGES:
        texts = re.findall(r"^( *)```yaml\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL)
        for number, (indent, text) in enumerate(texts):
            lines = [line.removeprefix(indent) for line in text.splitlines()]
            if re.match(r"# [/.]|#!", lines[0]):
                continue
            keys = [line.partition(":")[0] for line in lines if line]
            is_one = any(key.startswith((" ", "#")) for key in keys) or len({*keys}) == len(keys)
            for part, piece in enumerate(["\n".join(lines)] if is_one else filter(None, lines)):
                found.append(pytest.param(yaml.safe_load(piece), id=f"{name(page)}-{number}-{part}"))
    return found


def around(piece: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield pillars with a piece of a site: alone, with what it may refer to, and with what a master adds."""
    least = {"repository": "https://git.example.org/blog.git", "revision": "main", "domains": ["blog.example.org"]}
    caches = {"default": {"engine": "redis"}, "pages": {"engine": "memcached"}}
    for site in (least, {**least, "queue": {"engine": "redis"}, "caches": caches}, test_served.pillar()):
        yield {"django": {"sites": {"blog": {**site, **piece}}}}


def mastered(pillar: dict[str, Any]) -> dict[str, Any]:
    """Return a pillar with what a master adds to its sites that have hosts."""
    names = [f"{kind}{number}" for kind in ("web", "lb", "db", "jobs", "cache", "stage") for number in (1, 2)]
    addresses = {host: f"10.0.0.{number}" for number, host in enumerate(names, start=1)}
    for site in pillar["django"].get("sites", {}).values():
        if "hosts" in site:
            added = test_served.pillar()
            passwords = {**added["fleet"]["passwords"], "redis": "5e" * 32, "cache": "hunter2-and-more"}
            certificates = dict.fromkeys(names, test_served.PEM.format("of a host"))
            fleet = {"addresses": addresses, "passwords": passwords, "certificates": certificates}
            media = {"shared": False, **site.get("media", {})}
            site |= {"fleet": {**added["fleet"], **fleet}, "secret_key": added["secret_key"], "media": media}
    return pillar


@pytest.mark.parametrize("block", blocks())
def test_pillars_in_pages_are_valid(block: dict[str, Any]) -> None:
    """Pieces in one of the sites around them: the page has the rest."""
    pillars = [block] if "django" in block else around(block)
    grains = {**DEBIAN, "id": "web1"}
    found = [compiler.compile(mastered(pillar), SCHEMA, PLATFORMS, grains)["errors"] for pillar in pillars]
    assert min(found, key=len) == []


def test_the_readme_has_a_pillar_of_ten_lines():
    (block,) = re.findall(r"^```yaml\n(django:\n.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(block.splitlines()) == 10


def rows_of(page: str, columns: int) -> list[list[str]]:
    """Return the rows of all tables of a page that have so many columns."""
    lines = re.findall(r"^\| (.*) \|$", (ROOT / page).read_text(), re.MULTILINE)
    return [cells for line in lines if len(cells := line.split(" | ")) == columns and "detected, or" not in line]


def test_every_trait_of_a_project_names_its_test():
    """The guide has what to write, internals/projects.md the test of each row."""
    tested = dict(rows_of("docs/internals/projects.md", 2)[1:])
    assert [trait for trait, _key in rows_of("docs/guides/projects.md", 2)] == [*tested] and len(tested) > 30
    unknown = []
    for test in tested.values():
        file, name = re.fullmatch(r"`(test_\w+\.py)::(test_\w+)`", test).groups()
        if f"def {name}(" not in (ROOT / "test/hosts" / file).read_text():
            unknown.append(test)
    assert unknown == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("test/projects/*.yaml")), ids=lambda path: str(path.stem))
def test_every_recipe_of_a_project_is_on_the_page(path):
    recipe = yaml.safe_load(path.read_text())
    versions, number = " → ".join(recipe["versions"]), {"bookworm": 12, "trixie": 13}[recipe.get("debian", "bookworm")]
    line = f"* `{path.stem}` {versions}, Debian {number}: "
    assert line in (ROOT / "docs/internals/projects.md").read_text()


def test_every_fault_has_a_test_or_is_open():
    cases, numbers = yaml.safe_load_all((ROOT / "test/hosts/faults.yaml").read_text())
    assert list(numbers) == list(range(1, 66))
    assert {key for about in numbers.values() for key in about} == {"fault", "tests", "open"}
    assert {case["number"] for case in cases} <= {*numbers}
    shown = {number for number, about in numbers.items() if about.get("tests")} | {case["number"] for case in cases}
    assert {number for number in numbers if number not in shown} == {
        number for number, about in numbers.items() if "open" in about
    }
    tests = [test.split("::") for about in numbers.values() for test in about.get("tests", [])]
    assert [f"{file}::{test}" for file, test in tests if f"def {test}(" not in (ROOT / "test" / file).read_text()] == []


def test_the_page_of_faults_is_up_to_date():
    """Its rows are of the last run with --all; names of faults and tests are those of faults.yaml."""
    page = ROOT / "docs/internals/faults.md"
    measured, mark, rest = page.read_text().partition("## Every fault by its number\n")
    _cases, numbers = yaml.safe_load_all((ROOT / "test/hosts/faults.yaml").read_text())
    above = {int(number) for number in re.findall(r"^\| (\d\d) ", measured, re.MULTILINE)}
    rows = [
        f"| {number:02} | {about['fault']} | {'<br>'.join(faults.shown_by(about, told=number in above))} |"
        for number, about in numbers.items()
    ]
    text = "\n".join([measured + mark, *rest.splitlines()[1:3], *rows, ""])
    if os.environ.get("UPDATE"):
        page.write_text(text)
    assert page.read_text() == text, "UPDATE=1 test/run test/engine/test_documents.py writes it"


def test_modules_that_pages_name_exist():
    known = {
        path.stem
        for folder in ("_utils", "_states", "_modules", "django", "django/files")
        for path in (ROOT / folder).iterdir()
    }
    known |= set(re.findall(r'"(django_[a-z_]+)"', (TREE / "metrics/metrics.py").read_text()))
    known |= {"django_sendfile", "django_formula"}
    families = "|".join(path.parent.name for path in TREE.glob("*/__init__.py"))
    for page in [*PAGES, *CHANGES]:
        text = page.read_text()
        named = set(re.findall(r"`(?:_utils/|django/files/)?(django_[a-z_]+)(?:\.\w+)*(?:\(\))?`", text))
        assert named - known == set(), name(page)
        if page.parent.name not in ("internals", "decisions") and page.name != "CONTRIBUTING.md":
            continue  # its files are those of a site
        files = re.findall(rf"`(?:engine/django_formula/)?({families})/(\w+)\.py\b", text)
        modules = re.findall(rf"`({families})\.(\w+)\.(?!json|sls|yml)[A-Za-z]\w*[`(]", text)
        gone = [module for module in files + modules if not (TREE / f"{'/'.join(module)}.py").exists()]
        assert gone == [], name(page)


def test_every_verb_has_a_section():
    module = parsed.tree(ROOT / "_modules/django.py")
    verbs = {node.name for node in module.body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"}
    page = (ROOT / "docs/reference/commands.md").read_text()
    assert verbs == set(re.findall(r"^## ([a-z_]+)$", page, re.MULTILINE))
    assert [verb for verb in verbs if f"[`{verb}`](#{verb})" not in page] == []


def test_every_directive_of_the_sandbox_has_a_row():
    """With its value, and with what switches it off, which the pillar takes."""
    release = Path("/srv/django/blog/releases/0001-0123456789ab")
    had: dict[str, list[str]] = {}
    for directive, value in sandbox.directives(configured(), release, FACTS):
        had.setdefault(directive, []).append(value)
    for directive in ("User", "Group", "WorkingDirectory", "EnvironmentFile"):
        del had[directive]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| .+? \| ?(.*?) ?\| .*\|$", sandbox_table(), re.MULTILINE)
    assert sorted(directive for directive, _value, _off in rows) == sorted(had)
    documented = {directive: re.findall("`(.+?)`", value) for directive, value, _off in rows}
    wrong = [name for name in documented if not name.endswith("Paths") and {*had[name]} - {"", *documented[name]}]
    assert wrong == [] and documented["CapabilityBoundingSet"] == []
    off = {directive: yaml.safe_load(value.strip("`")) for directive, _value, value in rows if value}
    pillar = {"django": {"sites": {"blog": {"folder": "/app", "domains": ["blog.example.org"], "sandbox": off}}}}
    compiled = compiler.compile(pillar, SCHEMA, PLATFORMS, DEBIAN)
    assert compiled["errors"] == [] and len(off) > 25
    assert not [name for name in off if sandbox.is_on(off, name) and name in trial._OF_SECCOMP]


def test_every_folder_of_a_site_is_in_the_table_of_owners():
    schedules = {"daily": {"command": "manage.py clearsessions", "at": "daily"}}
    site = configured(workers={"beat": {"kind": "celery_beat"}}, schedules=schedules)
    rows = walls()
    for folder in site.folders():
        path = re.sub(rf"(?<=/){site.name}(?=/|$)", "<site>", str(folder.path).replace(str(site.root), "<root>"))
        owner, mode = rows.pop(path)
        expanded = owner.replace("<user>", site.user).replace("<proxy>", site.proxy_group)
        assert (expanded, mode) == (f"{folder.owner}:{folder.group}", f"{folder.mode:04o}"), path
    own = {"current", "previous", "maintenance", "errors", "lock", "site.json", "deploys.jsonl", "adopted"}
    assert {path.removeprefix("<root>/") for path in rows} >= own
    for name in own:
        assert any(value == site.root / name for value in vars(site).values()), f"{name} is no path of a site any more"


def walls() -> dict[str, tuple[str, str]]:
    """Return the table of owners: path → (owner:group, mode)."""
    page = (ROOT / "docs/reference/walls.md").read_text()
    lines = page[page.index("## Every path") :].partition("|---")[2].splitlines()[1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line]
    assert {len(row) for row in cells} == {5} and all(all(row) for row in cells)
    assert all(re.fullmatch(r"`[\w<>-]+:[\w<>-]+`", owner) for _path, owner, *_rest in cells)
    assert all(re.fullmatch(r"[0-7]{4}|link", mode) for _path, _owner, mode, *_rest in cells)
    rows = {path.strip("`").rstrip("/"): (owner.strip("`"), mode) for path, owner, mode, *_rest in cells}
    assert len(rows) == len(cells)
    return rows


def sandbox_table() -> str:
    page = (ROOT / "docs/reference/sandbox.md").read_text()
    return page[page.index("## Each directive") : page.index("## AppArmor")]


def messages() -> str:
    """Return the string literals of the code, joined as Python joins them, with … for inserted values."""
    words = []
    for path in [*TREE.rglob("*.py"), *ROOT.glob("_*/*.py"), *ROOT.glob("django/files/*.py")]:
        for node in parsed.nodes(path):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                words.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                words.append(re.sub(r"\{\w+\}", "…", node.value))
    for row in yaml.safe_load((TREE / "knowledge/knowledge.yaml").read_text())["causes"]:
        words += [row["match"], re.sub(r"\{\w+\}", "…", row["say"])]
    words += [path.read_text() for path in [*ROOT.glob("django/*.sls"), ROOT / "django/schema.yaml"]]
    return "\n".join(words)


def quoted() -> list[str]:
    """Return the quotes in troubleshooting.md, in pieces without what varies."""
    page = (ROOT / "docs/troubleshooting.md").read_text().partition("## What a visitor sees")[0]
    entries = re.findall(r"^\* (.*?)(?=^\* |^#|\Z)", page, re.MULTILINE | re.DOTALL)
    quotes = [" ".join(entry.split()).partition("→")[0].partition("`: ")[0] + "`" for entry in entries]
    phrases = [phrase for text in quotes for phrase in re.findall(r"`([^`]+)`", text)]
    return [piece.strip(" :").removesuffix(" failed") for phrase in phrases for piece in phrase.split("…")]


def test_the_fifteen_most_likely_errors_are_fifteen():
    page = (ROOT / "docs/troubleshooting.md").read_text()
    likely, *others = re.findall(r"^## .+?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    entries = re.findall(r"^\* .*?(?=^\* |\Z)", likely, re.MULTILINE | re.DOTALL)
    assert likely.startswith("## The fifteen most likely\n") and len(entries) == 15
    assert [entry for entry in entries if entry in "".join(others)] == []


def test_every_part_of_troubleshooting_is_named_at_its_top():
    page = (ROOT / "docs/troubleshooting.md").read_text()
    named = re.findall(r"\]\((#[\w-]+)\)", page.partition("An error has this form")[0])
    headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert named == ["#" + heading.lower().replace(" ", "-") for heading in headings]


def test_every_quoted_error_exists():
    code = messages()
    unknown = [piece for piece in quoted() if piece not in code and piece not in FOREIGN]
    assert unknown == []


def errors() -> Iterator[tuple[str, list[str]]]:
    """Yield where each DeploymentError is raised, and the fixed words of its message."""
    for path in sorted(TREE.rglob("*.py")):
        for node in parsed.nodes(path):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "DeploymentError" and node.args:
                constants = [part.value for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant)]
                clauses = (clause.strip(" '") for text in constants for clause in re.split("[:;,(]", str(text)))
                words = [clause for clause in clauses if len(clause) > 8]
                if words:
                    yield f"{path.relative_to(TREE)}:{node.lineno}", words


def test_every_error_is_in_troubleshooting():
    page = " ".join((ROOT / "docs/troubleshooting.md").read_text().split())
    missing = {where: words for where, words in errors() if not any(word in page for word in words)}
    assert missing == {}, "add it to docs/troubleshooting.md, by its fixed words"
