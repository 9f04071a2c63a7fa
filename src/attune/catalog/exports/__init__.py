"""Plugs: formats a release can leave in. One file each; the file's name is the plug's name in a recipe."""
