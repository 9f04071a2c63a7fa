"""Plugs from outside Attune."""
