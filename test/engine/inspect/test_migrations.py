"""Migrations that nothing orders, of which an empty database gets one too late."""

import pytest
from django_formula.inspect import environment, migrations
from trees import write_tree

HEAD = "from django.db import migrations, models\nclass Migration(migrations.Migration):\n"
MADE = f"{HEAD}    operations = [migrations.CreateModel('Deadline', [])]\n"
DELETED = (
    f"{HEAD}    dependencies = [('core', '0001_initial')]\n    operations = [migrations.DeleteModel(name='Deadline')]\n"
)
REFERS = (
    f"{HEAD}    dependencies = [('core', '0001_initial')]\n"
    "    operations = [migrations.CreateModel(name='File', fields=[('a', models.ForeignKey(to='core.Deadline'))])]\n"
)
LATER = f"{HEAD}    dependencies = [('student', '0001_initial')]\n"
SOURCE = {
    "core/migrations/0001_initial.py": MADE,
    "core/migrations/0002_remove.py": DELETED,
    "student/migrations/0001_initial.py": REFERS,
}


@pytest.mark.parametrize(
    ("changed", "settings", "expected"),
    [
        ({}, "", "student"),
        ({"core/migrations/0003_more.py": f"{HEAD}    dependencies = (('core', '0002_remove'),)\n"}, "", "student"),
        ({"student/migrations/0001_initial.py": REFERS.replace("core.Deadline", "core.deadline")}, "", "student"),
        # ordered by a dependency, or by run_before
        ({"core/migrations/0002_remove.py": DELETED.replace("[(", "[('student', '0001_initial'), (", 1)}, "", ""),
        (
            {"student/migrations/0001_initial.py": f"{REFERS}    run_before = [('core', '0002_remove')]\n"},
            "",
            "",
        ),
        # by the dependency of a migration between them
        (
            {
                "core/migrations/0002_remove.py": DELETED.replace("[(", "[('other', '__first__'), (", 1),
                "other/migrations/0001_initial.py": LATER,
            },
            "",
            "",
        ),
        # by the name of another application that Django migrates earlier
        ({"also/migrations/0001_initial.py": LATER}, "", ""),
        # to migrate the application first would not help
        ({"student/migrations/0001_initial.py": REFERS.replace("0001_initial", "0002_remove")}, "", ""),
        # not known to be deleted once
        ({"core/migrations/0003_again.py": MADE}, "", ""),
        ({"core/migrations/0002_remove.py": f"{DELETED}    replaces = [('core', '0003_x')]\n"}, "", ""),
        ({}, "MIGRATION_MODULES = {'core': 'x'}", ""),
        ({"student/migrations/0001_initial.py": "class Migration(:\n'core.Deadline'"}, "", ""),
    ],
)
def test_application_that_refers_to_a_deleted_model_is_migrated_first(tmp_path, changed, settings, expected):
    files = {**SOURCE, **changed}
    labels = sorted({path.partition("/")[0] for path in files})
    files |= {f"{label}/__init__.py": "" for label in labels}
    tree = write_tree(tmp_path, {**files, "site/settings.py": f"INSTALLED_APPS = {labels}\n{settings}\n"})
    found = environment.read([tree], "site.settings", "")
    first = migrations.unordered(found, [tree])
    assert (first.first if first else "") == expected


def test_no_other_model_of_the_same_name_is_taken_for_it(tmp_path):
    refers = REFERS.replace("core.Deadline", "other.Deadline")
    files = {**SOURCE, "student/migrations/0001_initial.py": refers, "core/__init__.py": "", "student/__init__.py": ""}
    tree = write_tree(tmp_path, {**files, "site/settings.py": "INSTALLED_APPS = ['core', 'student']\n"})
    found = environment.read([tree], "site.settings", "")
    assert migrations.unordered(found, [tree]) is None
