"""The model: Llama 2's transformer, what is computed from its logits, how it writes text, and how its weights travel."""
