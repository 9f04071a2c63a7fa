"""Plugs: which weights move and how they are stored. One file each; the file's name is the plug's name in a recipe."""
