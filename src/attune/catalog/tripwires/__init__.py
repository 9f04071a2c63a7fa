"""Ways in which training fails without a word, one file each."""
