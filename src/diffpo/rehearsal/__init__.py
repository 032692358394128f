"""Run a recipe once in small, on random weights, with the user's data, rewards and tokenizer, and say what is wrong."""
