"""Process managers, commands of the build user, and the sandbox of a site's processes."""
