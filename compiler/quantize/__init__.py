"""Training networks with small dictionaries; the only folder that imports torch."""
