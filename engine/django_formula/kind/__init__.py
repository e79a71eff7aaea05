"""What each kind of server, worker, store, push, process manager and proxy is, as data."""
