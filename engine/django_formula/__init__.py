"""The engine of django-formula, in plain Python: Salt's modules enter it by `django_engine`."""
