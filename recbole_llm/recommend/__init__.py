"""Recommendations of a trained LLM recommender: for its users, for histories typed by hand, with items left out.

    import recbole_llm
    recommender = recbole_llm.load("results/ml-100k.candidates.LLaRA.seed2020.json")
    recommender.recommend(users=["196"], k=10)
    recommender.recommend(history=["Toy Story", "Heat"], k=5)

The CRM retrieves `rerank_n` items, the LLM ranks them, the rest follow in the CRM's order (`model.by_hand`). Nothing here
opens a pickle: a run's folder holds safetensors, JSON and YAML.

In: a finished run, and users or histories typed by hand. Out: a table of items. `recommender` is what users call, `ranking` does the work.
"""
