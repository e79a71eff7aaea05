"""The workers that a project starts, by their command lines: what is no number is none."""

import pytest
from django_formula.inspect import worker


@pytest.mark.parametrize("number", ["²", "9" * 5000, "two", "-1"])
@pytest.mark.parametrize(
    "line",
    [
        "celery -A site worker --concurrency {}",
        "celery -A site worker --autoscale {},3",
        "celery -A site worker --time-limit {}",
        "manage.py rqworker --num-workers {}",
        "manage.py run_huey --workers {}",
    ],
)
def test_option_that_is_no_number_of_processes_gives_none(line, number):
    found = worker.of(line.format(number).split(), is_process=True)
    assert found is not None and found.processes == 0 and not found.options
