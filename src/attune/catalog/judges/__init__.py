"""Plugs: who says which of two answers is better. One file each; the file's name is the plug's name in a recipe."""
