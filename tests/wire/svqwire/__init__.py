"""Scripted vhost-user peers: what the wire tests speak with. One noun per file."""
