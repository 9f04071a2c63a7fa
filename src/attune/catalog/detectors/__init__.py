"""Plugs: what notices that the world moved. One file each; the file's name is the plug's name in a recipe."""
