"""Plugs: numbers on the test rows. One file each; the file's name is the plug's name in a recipe."""
