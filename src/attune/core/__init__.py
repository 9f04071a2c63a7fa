"""Nouns every room shares: records, contracts, discovery, recipe reading, workspace, models, prediction. Imports no other room."""
