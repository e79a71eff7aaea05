"""Which variables a project needs, asked of its settings, which are imported until nothing is missing."""
