"""The application that uWSGI runs: that of the project's module, which uwsgi.ini names, once it is warm."""

import importlib

import django_formula_warm
import uwsgi

application = importlib.import_module(uwsgi.opt["set-ph"].decode().partition("=")[2]).application
django_formula_warm.warm()
