"""Plugs: what the data teaches. One file each; the file's name is the plug's name in a recipe."""
