"""Integer networks, how they are built, and how they become hardware."""
