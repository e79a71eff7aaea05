"""Workers: a contract, and a module for each kind."""
