"""How a model is trained, saved and paid for: one loop (trainer), its arithmetic (precision), its memory (checkpoint)."""
