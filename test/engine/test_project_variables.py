"""The environment variables that settings read."""

import django_project_variables

READS = """
import os
os.environ["SET"] = "1"
a = os.environ["KEY_A"]; b = os.environ.get("KEY_B"); c = os.getenv("KEY_C", "x")
env = environ.Env(KEY_D=(bool, False))
d = env("KEY_D"); e = env("KEY_E"); f = env.str("KEY_F", "x"); g = env("KEY_G", default=None)
h = config("KEY_H", cast=int); i = config("KEY_I", default=3); j = decouple.config("KEY_J")
k = env.db(); l = env.db("KEY_L", default="x"); m = dj_database_url.config("KEY_M", default="x")
n = os.environ[name]; o = config("not a variable"); p = env("KEY_P", **more); q = other("KEY_Q")
"""


def test_variables_are_required_unless_they_have_a_default():
    found = list(django_project_variables.read(READS, "s.py"))
    required = {variable.name for variable in found if variable.required}
    optional = {variable.name for variable in found if not variable.required}
    assert required == {"KEY_A", "KEY_E", "KEY_H", "KEY_J", "DATABASE_URL"}
    assert optional == {"KEY_B", "KEY_C", "KEY_D", "KEY_F", "KEY_G", "KEY_I", "KEY_L", "KEY_M", "KEY_P"}
    assert next(variable.place for variable in found if variable.name == "KEY_A") == "s.py:4"
    assert list(django_project_variables.read("def (", "s.py")) == []
