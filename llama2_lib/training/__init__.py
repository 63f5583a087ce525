"""How a model is trained, saved and paid for: the one loop (trainer), its arithmetic (precision), its memory (checkpoint)."""
