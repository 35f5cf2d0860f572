"""Hardware: Amaranth components with plain parameters, which know nothing of files or models."""
