VERSION = "1.2"
RELEASE_NOTE = "Entries can be hidden."
