"""The application that uWSGI runs: that of the project's module, which uwsgi.ini names, once it is warm."""

import gc

import django_formula_application
import django_formula_unread
import django_formula_warm
import uwsgi

gc.disable()  # what is imported now stays in memory; `warm` enables it again
project = django_formula_application.load(uwsgi.opt["set-ph"].decode().partition("=")[2])
complete = django_formula_unread.reading_on(project)


def application(environ, start_response):
    environ.setdefault("SCRIPT_NAME", "")  # WSGI lets a server leave out what is empty, which no other one does
    return complete(environ, start_response)


django_formula_warm.warm()
