"""Who had this host do what: the audit log, and what people may do with a site."""
