"""What is wrong with sites and their host, and the messages that people get of it."""
