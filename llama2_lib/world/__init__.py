"""The small world: everything in it is known to be true or false, so replies can be judged by code. No torch here."""
