"""
Starts a Celery worker; one with gevent only after gevent has replaced modules of Python, before they are imported.
"""

import django_formula_worker


def main():
    given = django_formula_worker.read()
    if given["options"].get("pool") == "gevent":
        from gevent import monkey

        monkey.patch_all()
    import django_formula_celery_worker

    django_formula_celery_worker.run(given)


if __name__ == "__main__":
    main()
