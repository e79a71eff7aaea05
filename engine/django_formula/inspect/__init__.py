"""What is found in the source of a project without running it, and the pillar that it needs."""
