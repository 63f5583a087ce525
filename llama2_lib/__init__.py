"""The whole Llama 2 paper, running."""
