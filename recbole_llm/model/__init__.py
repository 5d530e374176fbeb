"""In: a training split, a CRM, an LLM. Out: recommenders: prompts, adapters, gates, losses and scores."""
