"""Golden model and benches: what a network computes, and the proof that the hardware does."""
