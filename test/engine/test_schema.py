"""The schema, its checker compared with the jsonschema library, and the page that is generated from it."""

import functools
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from django_formula.pillar import check, compiler
from django_formula.pillar import rules as pillar_rules
from engine.pillar import test_compiler as test_pillar
from jsonschema import Draft202012Validator, ValidationError, validators
from thinned import each

ROOT = Path(__file__).parents[2]
SCHEMA = yaml.safe_load((ROOT / "django/schema.yaml").read_text())
RULES = check.resolve(SCHEMA, SCHEMA)
PILLARS = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "test/render").glob("*/pillar.yaml"))]
SUBSCHEMAS = ("additionalProperties", "items", "propertyNames", "not")
# What SECURITY.md's fuzz list and YAML make of a value, and the shapes that the schema tells apart.
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 80, 65535, 65536, 10**9, 10**30, 1.0, 4.0, -2.0, 2.5, 1e300),
    *("", " ", "a", "A", "auto", "on", "x y", "x\n", "\nx", "x\ty", "x\r\n", "\0", "\x7f", "\x85", "\u2028", "ä", "😀"),
    *(
        "\ud800",
        "-x",
        "--upload-pack=x",
        "a.",
        ".a",
        "..",
        "../../etc",
        "registry.example.org/team/blog:{commit}",
        "registry.example.org/team/blog",
        "10%",
        "Sat 22:00..Sun 06:00",
        "/",
        "//",
        "/a",
        "/a/",
        "/a//b",
        "/a/../b",
        "a/b",
    ),
    *("$(id)", "`id`", "@(/etc/shadow)", "%n", "{{ 7*7 }}", '"; return 200 pwn; #', "x; y", "x\\", "ext::sh -c id"),
    *("a.org", "A.org", "*.a.org", "a..org", "a-.org", "127.0.0.1:80", "127.0.0.1:080", "[::1]:80", "unix", "unix:80"),
    *(
        "30s",
        "30",
        "1h\n",
        "1y",
        "75M",
        "75 M",
        "50%",
        "infinity",
        "0027",
        "2024-01-01",
        "1e10",
        "HEAD",
        "main",
        "a@{1}",
    ),
    *(
        "https://a.org/b.git",
        "https://a.org/b c",
        "ssh://-x/y",
        "git@a.org:b",
        "file:///a b",
        "salt://a/../b",
        "salt://a",
    ),
    *("sdb://a/b", "x" * 20, "-----BEGIN RSA PRIVATE KEY-----\nAA==\n", "root", "www-data", "blog-build", "kombu<5.6"),
    *("3f2a9c1b77de24f0c7e5a1d8b9630e4f5a6b7c8d", "10.0.0.5"),
    *(
        "SECRET_KEY",
        "DEBUG",
        "TIME_ZONE",
        "LD_PRELOAD",
        "PATH",
        "socket",
        "harakiri",
        "listen",
        "keepalive_timeout",
        "Host",
    ),
    *([], ["a"], ["a", "a"], [1], [1, True], [1, 1.0], [200, 600], [None], [["a"]], ["a.org"], ["gzip"], [{}]),
    *(
        {},
        {"a": 1},
        {"A": "x"},
        {"A": None},
        {"A": True},
        {"A": []},
        {"A": {"from": "commit"}},
        {"DEBUG": False},
        {"": 1},
    ),
    *({"DEBUG": 0}, {"from": "commit"}, {"from": "x"}, {"join": ","}, {"value": "x"}, {"value": "x", "generate": 50}),
    *(
        {"generate": 50, "as": "file"},
        {"environment": True},
        {"environment": 1},
        {"contents": "x", "source": "salt://x"},
    ),
    *(
        {"harakiri": 30},
        {"harakiri": 0.5},
        {"socket": "x"},
        {"ProtectHome": True},
        {"User": "root"},
        {"engine": "sqlite"},
    ),
]


@functools.cache
def ecma(pattern: str) -> re.Pattern[str]:
    """As JSON Schema has it: $ is the end of the text, not a place before a newline at its end as in Python."""
    return re.compile(re.sub(r"\$$", r"\\Z", pattern))


def ecma_pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not ecma(pattern).search(instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


LIBRARY = validators.extend(Draft202012Validator, {"pattern": ecma_pattern})(SCHEMA)


def parts(rules: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every schema within a schema, with its place; each of $defs once."""
    yield path, rules
    named = {f"properties/{name}": part for name, part in rules.get("properties", {}).items()}
    named |= {f"$defs/{name}": part for name, part in rules.get("$defs", {}).items()}
    named |= {name: rules[name] for name in SUBSCHEMAS if isinstance(rules.get(name), dict)}
    named |= {f"kinds/{name}": part for name, part in rules.get("kinds", {}).items()}
    named |= {f"{name}/{n}": part for name in ("allOf", "oneOf") for n, part in enumerate(rules.get(name, ()))}
    for name, part in named.items():
        yield from parts(part, f"{path}/{name}")


PARTS = list(parts(SCHEMA))
NAMED = [(path, part) for path, part in PARTS if path.split("/")[-2:-1] == ["properties"] and "refuse" not in part]


def edges(part: Any) -> Iterator[Any]:
    """Values just within and just beyond the limits of a schema."""
    for limit in (part.get("minimum"), part.get("maximum")):
        if limit is not None:
            yield from (limit - 1, limit, limit + 1, float(limit))
    if "maxLength" in part:
        yield from ("a" * part["maxLength"], "a" * (part["maxLength"] + 1))
    yield from part.get("enum", ())


def leaves(value: Any) -> Iterator[Any]:
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from leaves(inner)


#: Every value of the pillars, and of VALUES, once; 1, 1.0 and True are three.
AGE_KEY = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
KNOWN = list({json.dumps(value): value for value in [*VALUES, *leaves(PILLARS), AGE_KEY]}.values())


@pytest.mark.slow  # each part of the schema with each value
@pytest.mark.parametrize("step", [12, pytest.param(1, marks=pytest.mark.full)], ids=["a twelfth", "all"])
@pytest.mark.parametrize(("path", "part"), PARTS, ids=[path or "/" for path, _ in PARTS])
def test_checker_agrees_with_jsonschema_on_every_part(path: str, part: Any, step: int) -> None:
    library = LIBRARY.evolve(schema=part)
    ours = {"refuse": "", "hint": "", **check.resolve(part, SCHEMA)}
    for value in [*KNOWN[len(path) % step :: step], *edges(part)]:
        problems = check.check(value, ours)
        assert (not problems) == library.is_valid(value), (value, problems)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with each of its keys."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def mutate(pillar: Any, chance: random.Random) -> None:
    """One change somewhere: another value, a value moved, a key renamed, doubled or gone."""
    everywhere = list(places(pillar)) or [({"": pillar}, "")]
    (container, key), (other, other_key) = chance.choice(everywhere), chance.choice(everywhere)
    match chance.randrange(6):
        case 0:
            container[key] = chance.choice(VALUES)
        case 1:
            container[key] = json.loads(json.dumps(other[other_key]))
        case 2 if isinstance(container, dict):
            container[str(chance.choice([other_key, "a", "A-B", f"{key}s", "x\n"]))] = container.pop(key)
        case 3 if isinstance(container, list):
            container.append(container[key])
        case 4:
            container[key] = [container[key]]
        case _:
            del container[key]


@pytest.mark.slow
def test_checker_agrees_with_jsonschema_on_whole_pillars() -> None:
    chance = random.Random(20260101)
    verdicts = []
    for _ in range(400):
        pillar = json.loads(json.dumps(chance.choice(PILLARS)))
        for _ in range(chance.randrange(3)):
            mutate(pillar["django"], chance)
        problems = check.check(pillar, RULES)
        assert (not problems) == LIBRARY.is_valid(pillar), (pillar, problems)
        verdicts.append(not problems)
        errors = compiler.compile(pillar, SCHEMA, {"Debian": {}}, {"os_family": "Debian"})["errors"]
        assert bool(errors) >= bool(problems), (pillar, problems)
        assert "\n" not in "".join(errors)
    assert 100 < sum(verdicts) < 300


def test_checker_implements_every_keyword_of_the_schema() -> None:
    ours = {"hint", "plain", "refuse", "secret", "verbatim", "whole", "derived", "kinds", *pillar_rules.KEYWORDS}
    annotations = {"$schema", "$defs", "title", "description", "default", "examples", "format"}
    checked = {"$ref", "type", "enum", "properties", "additionalProperties", "propertyNames", "required", "pattern"}
    checked |= {"maxLength", "minimum", "maximum", "items", "minItems", "uniqueItems", "not", "allOf", "oneOf"}
    assert {keyword for _, part in PARTS for keyword in part} == ours | annotations | checked


def test_the_schema_is_valid() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_every_option_is_described_and_its_default_is_valid() -> None:
    for path, part in NAMED:
        rules = check.resolve(part, SCHEMA)
        assert re.fullmatch(r"[A-Z`].*\.|.*DEBUG", rules.get("description", rules.get("hint")), re.DOTALL), path
        assert not check.check(rules.get("default"), rules) or "default" not in rules, path


@pytest.mark.parametrize(("path", "part"), [(path, part) for path, part in PARTS if "examples" in part], ids=str)
def test_every_example_is_valid(path: str, part: Any) -> None:
    rules = check.resolve(part, SCHEMA)
    assert [problem for value in part["examples"] for problem in check.check(value, rules)] == []


def test_every_option_has_an_example() -> None:
    """Those of pillar.example are checked with it; the others are in the schema."""
    page = (ROOT / "docs/reference/options.md").read_text()
    rows = [re.split(r"(?<!\\)\|", row)[1:-1] for row in re.findall(r"(?m)^\| `.*\|$", page)]
    assert len(rows) > 150 and [cells[0] for cells in rows if not cells[3].strip()] == []


def test_every_pattern_is_ascii_anchored_bounded_and_has_a_hint() -> None:
    for path, part in PARTS:
        if "$ref" in part:
            target = SCHEMA["$defs"][part["$ref"].rpartition("/")[2]]
            assert not (set(target) & set(part)), f"{path}: what is resolved is not what JSON Schema says"
        pattern = part.get("pattern", "^$")
        assert pattern.isascii(), path
        assert pattern[0] + pattern[-1] == "^$", path
        assert not re.search(r"\\[dwWDb]", pattern), f"{path}: these match more than ASCII"
        if not path.endswith("/not"):
            assert ("not" in part) == ("refuse" in part), path
            assert ("pattern" in part or "oneOf" in part) <= ("hint" in part), f"{path}: a pattern is no explanation"
        if "pattern" in part and "string" in part.get("type", ()) and not path.endswith("/not"):
            bounded = not re.search(r"[*+]|\{[0-9]+,\}", re.sub(r"\[[^\]]*\]|\\.", "", pattern))
            assert bounded or "maxLength" in part, path


def texts() -> list[tuple[str, Any]]:
    """The schemas of free text; those within `not` and `oneOf` only narrow it."""
    free = [(path, part) for path, part in PARTS if "string" in part.get("type", ()) and "enum" not in part]
    return [(path, part) for path, part in free if not re.search("/not$|/oneOf/", path)]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "part"), each(3, texts()), ids=[path for path, _ in texts()])
def test_control_characters_are_refused(path: str, part: Any) -> None:
    rules = check.resolve(part, SCHEMA)
    valid = [value for value in KNOWN if isinstance(value, str) and not check.check(value, rules)]
    allowed = "\n" * ("contents" in path or "environment" in path or "secrets" in path or path == "/$defs/private_key")
    allowed += "\n" * path.endswith(("/$defs/pem", "/client_ca")) + "\t" * ("contents" in path)
    assert valid
    valid = sorted({*valid})[:: max(1, len({*valid}) // 20)]
    for character in {*map(chr, range(32)), "\x7f", "\x85", "\u2028", "\u2029", "\ud800"} - {*allowed}:
        for value in valid:
            for changed in (value + character, character + value, f"{value[:1]}{character}{value[1:]}"):
                assert check.check(changed, rules), changed


def test_the_page_of_options_is_up_to_date() -> None:
    subprocess.run([sys.executable, ROOT / "docs/reference/options.py", "--check"], check=True)


def test_schema_has_at_most_168_kb() -> None:
    assert (ROOT / "django/schema.yaml").stat().st_size < 168_000


# Rules between options


def rules_between(rules: Any, scopes: tuple[Any, ...], way: str = "") -> Iterator[Any]:
    """Every option with rules, as its path, those, and the maps around it."""
    scopes = (*scopes, rules.get("properties", {}))
    for name, part in rules.get("properties", {}).items():
        if {*part} & {*pillar_rules.KEYWORDS}:
            yield f"{way}{name}", part, scopes
        yield from rules_between(part, scopes, f"{way}{name}:")
    if isinstance(rules.get("additionalProperties"), dict):
        yield from rules_between(rules["additionalProperties"], scopes, f"{way}*:")


HOST = RULES["properties"]["django"]["properties"]
BETWEEN = [*rules_between(HOST["defaults"], (HOST,))]


@pytest.mark.parametrize(("way", "part", "scopes"), BETWEEN, ids=[way for way, *_ in BETWEEN])
def test_rule_names_options_and_values_that_exist(way: str, part: Any, scopes: Any) -> None:
    for keyword in pillar_rules.KEYWORDS:
        for entry in pillar_rules.entries(part, keyword):
            names = pillar_rules.conditions(entry)
            assert names or keyword == "required_with", "it would hold always"
            assert len(names) == 1 or keyword != "only_with", "each condition is an entry of its own"
            for name, wanted in names.items():
                first, *steps = name.split(":")
                rule = next(known[first] for known in reversed(scopes) if first in known)
                for step in steps:
                    rule = rule["properties"][step]
                if not isinstance(wanted, bool):
                    assert {*pillar_rules.values_of(wanted)} <= {*rule["enum"]}, name
            values = pillar_rules.values_of(entry["value"]) if "value" in entry else []
            assert [problem for value in values for problem in check.check(value, part)] == []
            shown = {*re.findall(r"\{([a-z_:]+)\}", entry.get("text", ""))} - {"value"}
            assert shown <= {*names}
            assert not part.get("secret") or "{value}" not in entry.get("text", "")


EDITOR = json.loads((ROOT / "docs/reference/pillar.schema.json").read_text())
OF_EDITOR = validators.extend(Draft202012Validator, {"pattern": ecma_pattern})(EDITOR)
CASES: list[Any] = yaml.load((ROOT / "test/engine/pillar_errors.yaml").read_text(), Loader=test_pillar.Cases)


def test_schema_for_editors_refuses_no_valid_pillar() -> None:
    Draft202012Validator.check_schema(EDITOR)
    assert not {*pillar_rules.KEYWORDS, "kinds", "hint"} & {keyword for _, part in parts(EDITOR) for keyword in part}
    for pillar in json.loads(json.dumps(PILLARS)):
        assert [*OF_EDITOR.iter_errors(pillar)] == []
    inherited = {"defaults": {"tls": {"kind": "acme", "email": "ops@example.org"}}, "sites": {"blog": {"tls": None}}}
    assert OF_EDITOR.is_valid({"django": {**inherited, "sites": {"blog": {"tls": {"certificate": "/etc/a.pem"}}}}})
    assert OF_EDITOR.is_valid({"django": inherited})


def test_schema_for_editors_refuses_what_a_site_contradicts_itself() -> None:
    """It sees what is written side by side; the formula refuses all of that too."""
    seen = []
    for case in CASES:
        pillar = case.get("pillar", {"django": {"sites": {"blog": {**test_pillar.SITE, **case.get("site", {})}}}})
        try:
            pillar = json.loads(json.dumps(pillar))
        except TypeError:
            continue  # a date
        if LIBRARY.is_valid(pillar) and not OF_EDITOR.is_valid(pillar):
            seen.append(case["case"])
            assert test_pillar.compiled(pillar)["errors"]
    expected = {"options without effect with proxy none", "options that a kind of worker does not have"}
    expected |= {"a static host without its key", "stores that contradict themselves", "repository and folder"}
    assert expected <= {*seen}
    assert len(seen) > 25
