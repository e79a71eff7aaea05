"""What `pip install django-formula` brings: a program for the machine of a developer, and the formula that it sends."""
