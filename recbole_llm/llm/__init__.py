"""In: `llm_path`, and prompts as embeddings. Out: a language model with its tokenizer; likelihoods of answers, in one forward pass per prompt."""
