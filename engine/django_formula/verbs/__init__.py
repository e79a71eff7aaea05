"""Execution functions: what each does, and how it is printed."""
