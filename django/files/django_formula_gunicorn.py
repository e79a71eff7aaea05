"""The application that Gunicorn runs: that of the project's module, which gunicorn.json in the same folder names."""

import json
import os

import django_formula_application

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "gunicorn.json"), encoding="utf-8") as file:
    application = django_formula_application.load(json.load(file)["module"])
