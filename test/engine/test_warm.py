"""What is loaded before a server makes its processes: in a real Django, with the names of static files."""

import subprocess

import in_django
import pytest
from specimen import ROOT

PROGRAM = """
import django, pathlib
from django.conf import settings

class Elsewhere:
    def __init__(self):
        print("asked")

kind = {kind}
backend = "django.contrib.staticfiles.storage.ManifestStaticFilesStorage" if kind == "here" else "__main__.Elsewhere"
storages = {{"STORAGES": {{"staticfiles": {{"BACKEND": backend}}}}}}
settings.configure(
    STATIC_ROOT=".", STATIC_URL="/static/", ROOT_URLCONF="urls",
    **(storages if django.VERSION >= (4, 2) else {{"STATICFILES_STORAGE": backend}}),
)
pathlib.Path("urls.py").write_text("print('urls'); urlpatterns = []")
manifest = pathlib.Path("staticfiles.json")
manifest.write_text('{{"version": "1.1", "paths": {{"a.css": "a.123.css"}}, "hash": "x"}}')
django.setup()
import django_formula_warm
django_formula_warm.warm()
manifest.unlink()
if kind == "here":
    from django.contrib.staticfiles.storage import staticfiles_storage
    print(staticfiles_storage.url("a.css"))
"""


@pytest.mark.parametrize("group", in_django.DJANGOS)
@pytest.mark.parametrize(("kind", "said"), [("here", "urls\n/static/a.123.css\n"), ("elsewhere", "urls\n")])
def test_warm_loads_what_the_first_page_needs(tmp_path, group, kind, said):
    argv = [in_django.python(group), "-B", "-c", PROGRAM.format(kind=repr(kind))]
    environment = {"PYTHONPATH": f"{ROOT / 'django/files'}:{tmp_path}"}
    run = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (run.stdout, run.returncode) == (said, 0), run.stderr
