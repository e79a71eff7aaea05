"""This host: commands, files, locks, users, ports, /proc, daemons, templates, and DeploymentError."""
