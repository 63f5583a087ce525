"""A small world whose truth is known: facts, writing, noisy pages, dialogues, and an oracle that judges any reply."""
