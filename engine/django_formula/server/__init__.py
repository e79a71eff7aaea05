"""Application servers: a contract, and a module for each kind."""
