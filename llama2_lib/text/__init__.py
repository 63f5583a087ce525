"""Text before it reaches the model: cleaning, tokenizer, chat format, batches, contamination."""
