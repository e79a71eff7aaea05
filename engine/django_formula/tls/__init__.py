"""Certificates: files, ACME clients, orders, renewal."""
