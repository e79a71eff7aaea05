"""What balances a site between its hosts: HAProxy or nginx, Varnish, their checks and certificates."""
