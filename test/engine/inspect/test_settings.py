"""The settings of a project that are known without running it: variables and values."""

from pathlib import Path, PurePosixPath

import pytest
from django_formula.inspect import settings as inspect_settings
from django_formula.inspect.values import UNKNOWN
from trees import write_tree

HEAD = "import os\nfrom os import environ as e\nimport environ\nfrom pathlib import Path\n"


def read(folder: Path, text: str, given=(), **files: str):
    """The settings of a module, with other modules of the project."""
    tree = write_tree(folder, {"settings.py": HEAD + text, **{f"{name}.py": code for name, code in files.items()}})
    return inspect_settings.read([tree], "settings", dict(given))


def kinds(settings) -> dict[str, str]:
    """The variables: required, optional, or only tested for presence; and their kind, unless it is text."""
    words = {}
    for name, variable in settings.variables.items():
        word = "required" if variable.required else "optional" if variable.is_read else "presence"
        words[name] = word if variable.kind == "text" else f"{word} {variable.kind}"
    return words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x = os.environ['A']", {"A": "required"}),
        ("x = e['A']; y = e.get('B'); z = os.getenv('C', 'x')", {"A": "required", "B": "optional", "C": "optional"}),
        ("os.environ['A'] = '1'; x = os.environ['A']", {"A": "optional"}),
        ("# os.environ['A']\n'''os.environ['B']'''", {}),
        ("x = 'A' in os.environ; y = 'B' not in e", {"A": "presence", "B": "presence"}),
        ("if 'A' in os.environ:\n    x = os.environ['A'], os.environ['B']", {"A": "optional", "B": "optional"}),
        (
            "if os.environ.get('A'):\n    x = os.environ['B']\nelse:\n    y = os.environ['C']",
            {"A": "optional", "B": "optional", "C": "required"},
        ),
        ("if unknown():\n    x = os.environ['A']", {"A": "optional"}),
        ("x = os.environ['A'] if os.environ.get('B') else ''", {"A": "optional", "B": "optional"}),
        ("x = os.environ.get('A') or os.environ['B']", {"A": "optional", "B": "required"}),
        ("x = os.environ.get('A', os.environ['B'])", {"A": "optional", "B": "required"}),
        ("x = os.environ.get('A')\nif not x:\n    raise ImproperlyConfigured('A')", {"A": "required"}),
        ("x = os.environ.get('A', '1')\nif not x:\n    raise ImproperlyConfigured('A')", {"A": "optional"}),
        (
            "try:\n    x = os.environ.get('A')\n    if not x:\n        raise ValueError('A')\n"
            "except (ImportError, ValueError):\n    pass",
            {"A": "optional"},
        ),
        (
            "try:\n    x = os.environ.get('A')\n    if not x:\n        raise RuntimeError('A')\n"
            "except ImportError:\n    pass",
            {"A": "required"},
        ),
        (
            "none = object()\ndef need(name, *, live=none, dev=''):\n    try:\n        return os.environ[name]\n"
            "    except KeyError:\n        if os.environ.get('STAGE', 'live') == 'live':\n"
            "            if live is none:\n                raise Bad(name)\n            return live\n"
            "        return dev\nx = need('A'); y = need('B', live='')",
            {"A": "required", "B": "optional", "STAGE": "optional"},
        ),
        (
            "def key():\n    raise ValueError\nif os.environ.get('A') != '1':\n    x = 1\n    SECRET_KEY = key()",
            {"A": "optional"},
        ),
        ("def fail():\n    raise ValueError\nif not os.environ.get('A'):\n    fail()", {"A": "required"}),
        ("if not os.environ.get('A'):\n    print('A')\n    sys.exit(1)", {"A": "required"}),
        ("x = os.environ.get('A').split(' '); y = int(os.getenv('B'))", {"A": "required", "B": "required int"}),
        ("x = Path(os.environ.get('A')); y = os.path.join('/x', os.getenv('B'))", {"A": "required", "B": "required"}),
        (
            "a = os.environ.get('A')\nx = a.split() if a else []; y = a and a.split(); z = (a or '').split()\n"
            "if a is not None:\n    w = int(a)\ntry:\n    v = int(a)\nexcept (TypeError, ValueError):\n    v = 1",
            {"A": "optional int"},
        ),
        ("x = {os.environ['A']}", {"A": "required"}),
        (
            "x = os.environ.get('A', '').split(); y = int(os.environ.get('B', 1))",
            {"A": "optional", "B": "optional int"},
        ),
        ("os.environ.setdefault('A', '1')\nx = os.environ['A']", {"A": "optional"}),
        ("assert os.environ.get('A')", {"A": "required"}),
        ("try:\n    x = os.environ['A']\nexcept KeyError:\n    x = 1", {"A": "optional"}),
        (
            "try:\n    x = os.environ['A']; y = os.environ['B']\nexcept KeyError as k:\n    raise Bad(k)",
            {"A": "required", "B": "required"},
        ),
        ("def need(name):\n    return os.environ[name]\nx = need('A')", {"A": "required"}),
        (
            "def need(name, default=None):\n    try:\n        return os.environ['LD_' + name]\n    except KeyError:\n"
            "        if default is not None:\n            return default\n        raise Bad(name)\n"
            "x = need('A'); y = need('B', 1); z = need(name='C', default='')",
            {"LD_A": "required", "LD_B": "optional", "LD_C": "optional"},
        ),
        (
            "def opt(name):\n    return os.getenv(f'P_{name}', '')\n"
            "x = {n: opt(n) for n in names}; y = [opt(n) for n in ('A', 'B')]",
            {"P_A": "optional", "P_B": "optional"},
        ),
        ("get = lambda n: os.environ[n.upper()]\nx = get('a')", {"A": "required"}),
        ("for n in ('A', 'B'):\n    x = os.environ[n]", {"A": "required", "B": "required"}),
        ("for n in names():\n    x = os.environ['A']", {"A": "optional"}),
        (
            "import dj_database_url as d\nx = config('A', default='postgres://x', cast=d.parse)",
            {"A": "optional database"},
        ),
        ("def never():\n    return os.environ['A']", {}),
        (
            "env = environ.Env(A=(bool, False), B=int)\n"
            "x = env('A'); y = env('B'); z = env('C'); w = env('D', default=1)",
            {"A": "optional bool", "B": "required", "C": "required", "D": "optional"},
        ),
        (
            "env = environ.Env()\nenv.prefix = 'P_'\n"
            "x = env.bool('A'); y = env.list('B', default=[]); z = env('C', bool)",
            {"P_A": "required bool", "P_B": "optional list", "P_C": "required bool"},
        ),
        (
            "env = environ.Env()\nx = env.db(); y = env.cache('C'); z = env.email_url(default='x')",
            {"DATABASE_URL": "required database", "C": "required cache", "EMAIL_URL": "optional email"},
        ),
        (
            "import environ\nenv = environ.Env()\nSTAGE = env('STAGE', default='prod')\n"
            "def default(dev=env.NOTSET, live=env.NOTSET):\n    return live if STAGE == 'prod' else dev\n"
            "x = env.str('A', default=default('a')); y = env.list('B', default(['*']))\n"
            "z = env('C', default=default(1, 2))",
            {"STAGE": "optional", "A": "required", "B": "required list", "C": "optional"},
        ),
        (
            "from decouple import config, undefined\nimport marshmallow as ma\nfrom environs import Env\nenv = Env()\n"
            "x = config('A', default=undefined); y = env.str('B', default=ma.missing); z = env.str('C', ...)",
            {"A": "required", "B": "required", "C": "required"},
        ),
        (
            "from environs import Env\nenv = Env()\nwith env.prefixed('P_'):\n"
            "    x = env.int('A')\ny = env.str('B', 'x')",
            {"P_A": "required int", "B": "optional"},
        ),
        (
            "from environs import env\nenv.read_env()\n"
            "x = env.int('A')\ny = env.str('B', 'x'); z = env.bool('C', True)",
            {"A": "required int", "B": "optional", "C": "optional bool"},
        ),
        (
            "from decouple import config, Csv\n"
            "x = config('A', cast=Csv()); y = config('B', default=1)\nz = config('C', cast=int)",
            {"A": "required list", "B": "optional", "C": "required int"},
        ),
        (
            "import dj_database_url as d\nx = d.config(env=d.DEFAULT_ENV)\n"
            "y = d.parse(os.environ['A']); z = d.config(env='B')",
            {"DATABASE_URL": "optional database", "A": "required database", "B": "optional database"},
        ),
        (
            "import cfenv\nenv = cfenv.AppEnv()\nx = env.get_credential('S', os.environ.get('A'))",
            {"VCAP_APPLICATION": "optional json", "VCAP_SERVICES": "optional json", "A": "optional"},
        ),
        (
            "from pydantic_settings import BaseSettings\nclass S(BaseSettings):\n    a: str\n    b: bool = False\n"
            "    c: int\n    d: str | None\n    class Config:\n        env_prefix = 'p_'\ns = S()",
            {"P_A": "required", "P_B": "optional bool", "P_C": "required int", "P_D": "optional"},
        ),
        (
            "from pydantic import Field\nfrom pydantic_settings import BaseSettings\nclass D(BaseSettings):\n"
            "    name: str\n    class Config:\n        env_prefix = 'D_'\nclass S(BaseSettings):\n"
            "    d: D = Field(default_factory=D)\n    e: str = Field(default_factory=lambda: os.environ['E'])\n"
            "    f: dict = Field(default_factory=dict)\ns = S()\nx = s.d.name",
            {"D_NAME": "required", "D": "optional", "E": "optional", "F": "optional"},
        ),
        (
            "from pydantic import BaseModel, Field\nfrom pydantic_settings import BaseSettings\n"
            "class P(BaseModel):\n    size: int\nclass D(BaseModel):\n    name: str\n    port: int = 1\n    pool: P\n"
            "    key: str = Field(alias='k')\nclass O(BaseModel):\n    a: str = ''\nclass S(BaseSettings):\n"
            "    model_config = {'env_prefix': 'APP_', 'env_nested_delimiter': '__'}\n    db: D\n    o: O\n"
            "    p: P | None\n    q: P = P(size=1)\ns = S()",
            {
                **{"APP_DB__NAME": "required", "APP_DB__PORT": "optional int", "APP_DB__POOL__SIZE": "required int"},
                **{"APP_DB__K": "required", "APP_O": "required json", "APP_P": "optional", "APP_Q": "optional"},
            },
        ),
        (
            "import pydantic\nfrom pydantic_settings import BaseSettings\nclass D(pydantic.BaseModel):\n    name: str\n"
            "class S(BaseSettings):\n    db: D\ns = S()",
            {"DB": "required parsed_json"},
        ),
        (
            "from configurations import Configuration, values\nclass Prod(Configuration):\n"
            "    SECRET_KEY = values.SecretValue()\n"
            "    DEBUG = values.BooleanValue(False)\n    OTHER = values.Value(environ_name='X', environ_prefix=None)",
            {"DJANGO_SECRET_KEY": "required", "DJANGO_DEBUG": "optional bool", "X": "optional"},
        ),
        (
            "from configurations import Configuration, values\nclass Prod(Configuration):\n"
            "    DATABASES = {'default': {'HOST': values.Value('x', environ_name='H', environ_prefix=None),\n"
            "                             'NAME': values.Value('x')}}",
            {"H": "optional"},
        ),
        (
            "from helper import *\nfrom lib import need as n\nimport more\nx = n('A')",
            {"A": "required", "B": "optional"},
        ),
        (
            "from split_settings.tools import include, optional\ninclude('mor*.py', optional('none.py'))",
            {"B": "optional"},
        ),
        ("from split_settings.tools import include\ninclude('/mor*.py', '', '../more.py', Path('more.py'))", {}),
        (
            "from split_settings.tools import include, optional\nfiles = ['none.py']\n"
            "for name, file in {'A': 'more.py'}.items():\n"
            "    if os.environ.get(name, ''):\n        files.append(optional(file))\ninclude(*files)",
            {"A": "optional"},
        ),
        ("with open(os.environ['A']) as f:\n    SECRET_KEY = f.read()", {"A": "required"}),
        ("x = os.environ[name]; y = config('not a variable'); z = other('Q')", {}),
        ("def loop():\n    return loop()\nx = loop(); y = os.environ['A']", {"A": "required"}),
        ("x = 'a' * 10 ** 10\nwhile True:\n    pass\ny = os.environ['A']", {"A": "required"}),
        ("raise SystemExit\nx = os.environ['A']", {"A": "required"}),
        ("x = os.environ['A'\ny = 1", {}),
    ],
)
def test_variables_are_required_optional_or_tested_for_presence(tmp_path, text, found):
    more = {"helper": "", "lib": "import os\ndef need(n):\n    return os.environ[n]\n", "more": "x = os.getenv('B')"}
    assert kinds(read(tmp_path, f"import os\n{text}", **more)) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("SECRET_KEY = os.environ['A']", {"A": ""}),
        ("SECRET_KEY = str(os.environ.get('A', 'x')).strip() or 'y'", {"A": ""}),
        ("SECRET_KEY = os.environ.get('A') or 'insecure'", {"A": ""}),
        ("KEY = os.environ['A']\nSECRET_KEY = KEY", {"A": ""}),
        ("SECRET_KEY = Path(os.environ['A']).read_text().strip()", {"A": "file"}),
        ("SECRET_KEY = open(os.environ['A']).read()", {"A": "file"}),
        (
            "from pydantic_settings import BaseSettings\nclass S(BaseSettings):\n    a: SecretStr\n"
            "SECRET_KEY = S().a.get_secret_value()",
            {"A": ""},
        ),
        ("SECRET_KEY = 'x' + os.environ['A']", {}),
        ("S3_SECRET_KEY = os.environ['A']", {}),
        ("if os.environ.get('A'):\n    SECRET_KEY = os.environ['A']", {"A": ""}),
    ],
)
def test_variable_of_the_secret_key_is_what_is_assigned_to_it(tmp_path, text, found):
    assert read(tmp_path, text).sources.get("SECRET_KEY", {}) == found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("X = Path(__file__).resolve().parent / 'data'", "<tree>/data"),
        ("X = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'data')", "<above>/data"),
        ("X = str(environ.Path(__file__) - 1)", "<tree>"),
        ("X = (environ.Path(__file__) - 1)('a', 'b')", "<tree>/a/b"),
        ("X = f'{Path(__file__).parents[0]}/log'", "<tree>/log"),
        ("X = '%s/log' % Path(__file__).parent", "<tree>/log"),
        ("X = ['a']\nX += ['b']\nX.append('c')", ["a", "b", "c"]),
        ("X = {'a': {'b': 1}}\nX['a']['b'] = 2\nX['c'] = 3", {"a": {"b": 2}, "c": 3}),
        ("X = 60 * 60", 3600),
        ("X = not False and 'y'", "y"),
        ("X = os.environ.get('A', 'True') == 'True'", True),
        ("X = os.environ['A']", UNKNOWN),
        ("X = '{}-{b}'.format(1, b='z')", "1-z"),
        ("X = ','.join(['a', 'b']).upper()", "A,B"),
    ],
)
def test_value_of_a_setting_is_known_where_its_code_decides_it(tmp_path, text, value):
    found = read(tmp_path, text).get("X")
    if isinstance(found, str | PurePosixPath):
        found = str(found).replace(str(tmp_path), "<tree>").replace(str(tmp_path.parent), "<above>")
    assert found == value


def test_value_depends_on_the_variables_that_are_given(tmp_path):
    text = "DEBUG = os.environ.get('A', '1') == '1'\nif os.environ.get('B'):\n    C = os.environ['C']"
    assert read(tmp_path, text).get("DEBUG") is True
    settings = read(tmp_path, text, {"A": "0", "B": "1"})
    assert settings.get("DEBUG") is False and settings.variables["C"].required


def test_place_of_a_variable_is_where_it_is_asked_for(tmp_path):
    settings = read(tmp_path, "def need(n):\n    return os.environ[n]\nx = {\n    'a': need('A'),\n}")
    assert settings.variables["A"].place == f"{tmp_path}/settings.py:8"


def test_hostile_settings_end(tmp_path):
    for text in (
        "x = " + "(" * 150 + ")" * 150,
        "x = " + "-" * 20000 + "1",
        "x = " + "[" * 90 + "]" * 90,
        "\0",
        "x" * 10000,
    ):
        read(tmp_path, text)
    loops = "".join(f"{' ' * depth}for a{depth} in every:\n" for depth in range(15))
    for end in ("x = 1", "pass"):
        read(tmp_path, f"every = [{'0,' * 100}]\n{loops}{' ' * 15}{end}\n")


def test_text_without_which_settings_raise_an_exception(tmp_path):
    first = "if os.environ.get('A') != '1':\n    raise ValueError\n"
    text = first + "if os.environ.get('B') == 'x':\n    y = 1\nelse:\n    raise E"
    settings = read(tmp_path, text)
    assert {name: variable.accepted for name, variable in settings.variables.items()} == {"A": ("1",), "B": ("x",)}
    assert kinds(settings) == {"A": "required", "B": "required"}


def test_variables_that_the_application_module_sets(tmp_path):
    code = (
        "import os\nfrom django.core.wsgi import get_wsgi_application\nos.environ.setdefault('STAGE', 'live')\n"
        "os.environ['X'] = '1'\napplication = get_wsgi_application()\n"
    )
    text = "if os.environ.get('STAGE') == 'live':\n    a = os.environ['A']\nx = os.environ['X']"
    tree = write_tree(tmp_path, {"settings.py": HEAD + text, "blog/wsgi.py": code})
    settings = inspect_settings.read([tree], "settings", {}, "blog.wsgi")
    assert kinds(settings) == {"A": "required", "STAGE": "optional", "X": "optional"}
    assert kinds(inspect_settings.read([tree], "settings", {}))["X"] == "required"


CLASSES = """
from configurations import Configuration
class Common:
    def SITE_NAME(self): return self.WORD + "s"
class Base(Common, Configuration):
    WORD = "pear"
    @property
    def HIDDEN(self): raise ValueError
class Development(Base): WORD = "plum"
class Production(Base): WORD = "apple"
class Demo(Production): WORD = "fig"
"""


@pytest.mark.parametrize(
    ("given", "chosen", "name"),
    [
        ({}, "Production", "apples"),
        ({"DJANGO_CONFIGURATION": "Development"}, "Production", "apples"),
        ({"DJANGO_CONFIGURATION": "Demo"}, "Demo", "figs"),
        ({"DJANGO_CONFIGURATION": "Nowhere"}, "Production", "apples"),
    ],
)
def test_settings_are_those_of_the_class_for_a_live_site(tmp_path, given, chosen, name):
    settings = read(tmp_path, CLASSES, given)
    assert (settings.configuration, settings.get("SITE_NAME"), settings.get("HIDDEN")) == (chosen, name, UNKNOWN)


def test_without_a_class_for_a_live_site_the_last_is_taken(tmp_path):
    classes = "from configurations import Configuration\nclass Base(Configuration): A = 1\nclass Demo(Base): A = 2\n"
    settings = read(tmp_path, classes)
    assert (settings.configuration, settings.get("A")) == ("Demo", 2)
