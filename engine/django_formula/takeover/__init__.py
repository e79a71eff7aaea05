"""The takeover of an existing deployment: detection, data, processes, virtual hosts."""
