"""Plugs: what an answer is worth. One file each; the file's name is the plug's name in a recipe."""
