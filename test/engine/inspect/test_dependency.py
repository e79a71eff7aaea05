"""Packages that do not go with each other, and the constraint that cures it."""

import pytest
from django_formula.inspect import advice, dependency
from specimen import configured
from trees import write_tree

INSTALLED = {"marshmallow": "4.0.1", "django": "5.2.1", "kombu": "0.3.1", "one": "1.4", "zero": "0.0.3"}
INSTALLED |= {"djangorestframework": "3.17.2", "markupsafe": "3.0.2", "fido2": "2.0.0"}
LACKS = ", which is installed, does not have"
SET = "set django:sites:blog:constraints:"

FRAMES = """Traceback (most recent call last):
  File "/srv/django/blog/releases/0003-c89f120661e6/source/blog/utils.py", line 6, in <module>
  File "/srv/django/blog/releases/0003-c89f120661e6/virtualenv/lib/python3.11/site-packages/{}", line 3, in <module>
  File "/usr/lib/python3.11/importlib/__init__.py", line 126, in import_module
"""
MAPPING = "ImportError: cannot import name 'Mapping' from 'collections' (/usr/lib/python3.11/collections/__init__.py)"
OLDER = (
    ", whose version replaces the one that the project requires, or django:sites:blog:python to a version that the "
    "packages support; it is python3 now"
)
OLDER_ALL = OLDER.replace("version replaces the one", "versions replace those")


@pytest.mark.parametrize(
    ("path", "cause", "packages", "hint"),
    [
        (
            "bleach/_vendor/html5lib/_trie/_base.py",
            MAPPING,
            ["x"],
            "bleach 3.1.5 uses collections.Mapping, which this Python no longer has: set "
            "django:sites:blog:python_packages: [x, 'psycopg2~=2.9.5', 'bleach~=3.3.1', 'celery~=5.4.0', "
            f"'kombu~=5.4.0', 'vine~=5.1']{OLDER_ALL}",
        ),
        (
            "one/utils.py",
            "TypeError: cannot pickle 'FrameLocalsProxy' object",
            [],
            f"one 1.4 does not run on this Python: set django:sites:blog:python_packages: ['one>1.4,<5']{OLDER}",
        ),
        (
            "yaml/x.py",
            "AttributeError: module 'collections' has no attribute 'Hashable'",
            [],
            "pyyaml 3.1 uses collections.Hashable, which this Python no longer has: set "
            f"django:sites:blog:python_packages: ['pyyaml>3.1,<7']{OLDER}",
        ),
        (
            "one.py",
            "ModuleNotFoundError: No module named 'cgi'",
            [],
            "one 1.4 uses cgi, which this Python no longer has: set "
            f"django:sites:blog:python_packages: ['one>1.4,<5']{OLDER}",
        ),
        (
            "vine/five.py",
            "ImportError: cannot import name 'formatargspec' from 'inspect' (/usr/lib/python3.11/inspect.py)",
            [],
            "vine 1.3.0 uses inspect.formatargspec, which this Python no longer has: set "
            "django:sites:blog:python_packages: ['psycopg2~=2.9.5', 'bleach~=3.3.1', 'celery~=5.4.0', 'kombu~=5.4.0', "
            f"'vine~=5.1']{OLDER_ALL}",
        ),
        (
            "psycopg2/__init__.py",
            "SystemError: initialization of _psycopg raised unreported exception (profiles/models.py:2)",
            ["bleach"],
            "psycopg2 2.8.6 does not run on this Python: set django:sites:blog:python_packages: ["
            f"'psycopg2~=2.9.5', 'bleach~=3.3.1', 'celery~=5.4.0', 'kombu~=5.4.0', 'vine~=5.1']{OLDER_ALL}",
        ),
        (
            "psycopg2/__init__.py",
            "SystemError: initialization of _psycopg raised unreported exception (profiles/models.py:2)",
            ["psycopg2~=2.9.5"],
            "psycopg2-binary 2.8.6 does not run on this Python: set django:sites:blog:python_packages: "
            "['psycopg2~=2.9.5', 'psycopg2-binary~=2.9.5', 'bleach~=3.3.1', 'celery~=5.4.0', 'kombu~=5.4.0', "
            f"'vine~=5.1']{OLDER_ALL}",
        ),
        (
            "MySQLdb/connections.py",
            "SystemError: PY_SSIZE_T_CLEAN macro must be defined for '#' formats",
            [],
            "mysqlclient 1.4.2.post1 does not run on this Python: set django:sites:blog:python_packages: "
            f"['mysqlclient>1.4.2.post1,<5']{OLDER}",
        ),
        (
            "django/db/models/sql/subqueries.py",
            MAPPING,
            [],
            "django 1.8.19 uses collections.Mapping, which this Python no longer has: set "
            f"django:sites:blog:python_packages: ['django~=2.2.0']{OLDER}",
        ),
        ("bleach/x.py", MAPPING, ["bleach>=3.1"], ""),
        ("absent/x.py", MAPPING, [], ""),
        ("bleach/x.py", "ImportError: cannot import name 'x' from 'bleach'", [], ""),
    ],
)
def test_package_that_is_too_old_for_this_python_is_replaced(path, cause, packages, hint):
    """With all others that have a row for it: each that is left out is another attempt."""
    installed = {"bleach": "3.1.5", "pyyaml": "3.1", "one": "1.4", "celery": "4.4.7", "vine": "1.3.0"}
    installed |= {"django": "1.8.19", "kombu": "4.6.11", "psycopg2": "2.8.6", "billiard": "4.2.1"}
    installed |= {"mysqlclient": "1.4.2.post1"}
    installed |= {"psycopg2-binary": "2.8.6"} if "psycopg2~=2.9.5" in packages else {}
    site = configured(python_packages=packages)
    assert dependency.of_python(site, cause, FRAMES.format(path), installed) == hint
    own = FRAMES.format(path).replace("virtualenv/lib/python3.11/site-packages", "source")
    assert dependency.of_python(site, cause, own, installed) == ""
    assert dependency.of_python(site, cause, "", installed) == ""


def test_all_packages_that_use_what_this_python_lacks_are_replaced(tmp_path):
    """Each that is left out is another attempt."""
    tree = write_tree(
        tmp_path,
        {
            "source/manage.py": "",
            "virtualenv/lib/python3.11/site-packages/pytz/lazy.py": "from collections import Mapping as DictMixin\n",
            "virtualenv/lib/python3.11/site-packages/requests/cookies.py": "import collections\n"
            "class Jar(object, collections.MutableMapping):\n    pass\n",
            "virtualenv/lib/python3.11/site-packages/one.py": "import os\nfrom collections import OrderedDict, Set\n",
            "virtualenv/lib/python3.11/site-packages/both/a.py": "try:\n    from collections.abc import Mapping\n"
            "except ImportError:\n    from collections import Mapping\n",
            "virtualenv/lib/python3.11/site-packages/both/b.py": "from collections import OrderedDict\n",
            "virtualenv/lib/python3.11/site-packages/requests-2.12.4.dist-info/x.py": "from collections import Set\n",
        },
    )
    asked = []

    def using(module, names):
        asked.append(module)
        return advice._using(tree / "source", module, [*names])

    installed = {"pytz": "2017.2", "requests": "2.12.4", "one": "1.4", "both": "1.0"}
    cure = dependency.of_python(configured(), MAPPING, FRAMES.format("pytz/lazy.py"), installed, using)
    assert cure.startswith(
        "pytz 2017.2 uses collections.Mapping, which this Python no longer has, as one 1.4, requests 2.12.4 would: set "
        "django:sites:blog:python_packages: ['pytz>2017.2,<2021', 'one>1.4,<5', 'requests>2.12.4,<6']"
    )
    assert asked == ["collections"]


@pytest.mark.parametrize(
    ("cause", "hint"),
    [
        (
            "AttributeError: module 'marshmallow' has no attribute '__version_info__' (config/settings/base.py:16)",
            f"marshmallow 4.0.1{LACKS} __version_info__: {SET} ['celery<6', 'marshmallow<4']",
        ),
        (
            "ImportError: cannot import name 'ugettext_lazy' from 'django.utils.translation' (/x.py)",
            f"django 5.2.1{LACKS} ugettext_lazy: {SET} ['celery<6', 'django<4.0']",
        ),
        (
            "ModuleNotFoundError: No module named 'django.utils.six' (shop/models.py:2)",
            f"django 5.2.1{LACKS} the module django.utils.six: {SET} ['celery<6', 'django<3.0']",
        ),
        (
            "ImportError: cannot import name 'new' from partially initialized module 'django.core.cache' (/x.py)",
            f"django 5.2.1{LACKS} new: {SET} ['celery<6', 'django<5']",
        ),
        (
            "ImportError: cannot import name 'x' from 'kombu.utils' (/x.py)",
            f"kombu 0.3.1{LACKS} x: {SET} ['celery<6', 'kombu<0.3']",
        ),
        (
            "ImportError: cannot import name 'Template' from partially initialized module 'jinja2' (most likely due to "
            "a circular import) (/srv/django/blog/releases/0001-1/source/blog/jinja2.py) (blog/jinja2.py:1)",
            "blog/jinja2.py has the name of the package jinja2 and is imported in its place: take its folder out of "
            "django:sites:blog:python_path, or rename the file",
        ),
        (
            "ImportError: cannot import name 'soft_unicode' from 'markupsafe' (/x.py)",
            f"markupsafe 3.0.2{LACKS} soft_unicode: {SET} ['celery<6', 'markupsafe<2.1']",
        ),
        (
            "AttributeError: module 'fido2.features' has no attribute 'webauthn_json_mapping' (a/webauthn/auth.py:3)",
            f"fido2 2.0.0{LACKS} webauthn_json_mapping: {SET} ['celery<6', 'fido2<2']",
        ),
        (
            "ImportError: Could not import 'rest_framework.schemas.coreapi.AutoSchema' for API setting "
            "'DEFAULT_SCHEMA_CLASS'. ModuleNotFoundError: No module named 'rest_framework.schemas.coreapi'.",
            f"djangorestframework 3.17.2{LACKS} the module rest_framework.schemas.coreapi: {SET} ['celery<6', "
            "'djangorestframework<3.17']",
        ),
        (
            "ImportError: cannot import name 'x' from 'rest_framework.views' (/x.py)",
            f"djangorestframework 3.17.2{LACKS} x: set django:sites:blog:python_packages: ['djangorestframework<3.17']",
        ),
        ("ImportError: cannot import name 'x' from 'one' (/x.py)", ""),
        ("ImportError: cannot import name 'x' from 'zero' (/x.py)", ""),
        ("ImportError: cannot import name 'x' from 'blog.views' (/x.py)", ""),
        ("ModuleNotFoundError: No module named 'marshmallow'", ""),
        ("AttributeError: 'NoneType' object has no attribute 'x'", ""),
    ],
)
def test_constraint_for_a_package_without_a_name(cause, hint):
    assert dependency.hint(configured(constraints=["celery<6"]), cause, INSTALLED) == hint


def test_constraint_of_the_pillar_is_not_repeated():
    cause = "AttributeError: module 'marshmallow' has no attribute 'x'"
    assert dependency.hint(configured(constraints=["marshmallow<5"]), cause, INSTALLED) == ""


def test_package_that_is_too_old_for_a_replaced_django_is_replaced():
    cause = "ImportError: cannot import name 'parse_header' from 'django.http.multipartparser' (/x.py) (chat/v.py:7)"
    site = configured(python_packages=["django~=5.2.0"])
    log = FRAMES.format("rest_framework/renderers.py")
    assert dependency.hint(site, cause, INSTALLED, log) == (
        "djangorestframework 3.17.2 uses parse_header, which django 5.2.1 no longer has: set "
        "django:sites:blog:python_packages: ['django~=5.2.0', 'djangorestframework>3.17.2'], whose version replaces "
        "the one that the project requires"
    )
    both = configured(python_packages=["django~=5.2.0", "djangorestframework>3.13.1"])
    own = log.replace("virtualenv/lib/python3.11/site-packages", "source")
    for one, frames in ((both, log), (site, own), (site, FRAMES.format("absent/x.py"))):
        assert dependency.hint(one, cause, INSTALLED, frames) == ""


def test_all_packages_that_are_too_old_for_a_replaced_django_are_named_at_once():
    cause = "ImportError: cannot import name 'six' from 'django.utils' (/x.py) (shop/wsgi.py:7)"
    installed = {"django": "3.2.25", "django-countries": "5.3.3", "django-allauth": "0.39.1", "one": "1.4"}
    log, site = FRAMES.format("django_countries/__init__.py"), configured(python_packages=["django~=3.2.0"])

    def found(*modules):
        return dependency.hint(site, cause, installed, log, lambda: modules)

    what = "django-countries 5.3.3 uses six, which django 3.2.25 no longer has"
    cure = "set django:sites:blog:python_packages: ['django~=3.2.0', 'django-countries>5.3.3'"
    replaces = ", whose versions replace those that the project requires"
    assert found("allauth", "absent", "django_countries") == (
        f"{what}, and django-allauth 0.39.1 is too old for it as well: {cure}, 'django-allauth>0.39.1']{replaces}"
    )
    assert found("one", "allauth") == (
        f"{what}, and django-allauth 0.39.1, one 1.4 are too old for it as well: {cure}, 'django-allauth>0.39.1', "
        f"'one>1.4']{replaces}"
    )
    assert "as well" not in found("django_countries") != ""


def test_package_with_another_name_than_its_module_is_replaced_by_the_series_before():
    cause = "ImportError: cannot import name 'Spooled' from 'storages.backends.s3boto3' (/x.py) (blog/settings.py:288)"
    installed = {**INSTALLED, "django-storages": "1.14.6"}
    assert dependency.hint(configured(), cause, installed) == (
        "django-storages 1.14.6, which is installed, does not have Spooled: set "
        "django:sites:blog:python_packages: ['django-storages<1.14']"
    )
    present = configured(python_packages=["django-storages<1.14"])
    assert dependency.hint(present, cause, installed) == ""
