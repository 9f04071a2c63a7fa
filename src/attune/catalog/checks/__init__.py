"""Plugs: what is looked for in rows. One file each; the file's name is the plug's name in a recipe."""
