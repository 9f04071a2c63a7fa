"""Plugs: what the tuned model has to beat. One file each; the file's name is the plug's name in a recipe."""
