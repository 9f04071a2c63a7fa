"""Plugs: where rows come from. One file each; the file's name is the plug's name in a recipe."""
