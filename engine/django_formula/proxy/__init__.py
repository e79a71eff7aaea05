"""nginx and Apache in front of sites: files, ports, switches, maintenance."""
