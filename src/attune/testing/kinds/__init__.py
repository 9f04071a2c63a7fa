"""The checks of each kind of plug; a file's name is the kind's name, its `check_*` functions are the checks."""
