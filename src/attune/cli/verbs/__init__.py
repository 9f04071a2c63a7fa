"""The verbs: a file is a verb, its name the verb's name; the folder is the list."""
