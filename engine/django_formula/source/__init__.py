"""The code of a site, from git or a local folder."""
