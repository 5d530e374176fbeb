"""python -m benchmarks.prompts: rendered and tokenised training prompts per second on one core.

Real ml-100k rows and titles, 20 candidates, histories of 10, batches of 16, the tokenizer of the default LLM.
Beside it, the straightforward way: fill a string template and run the tokenizer on every prompt.
"""

import tempfile
import time

import torch

from recbole_llm import LLMConfig


def main(n_prompts: int = 6000) -> dict[str, float]:
    """Print and return prompts per second, ours and the straightforward way, and their ratio."""
    from recbole.data import create_dataset

    from recbole_llm.data.dataloader import TrainPromptDataLoader
    from recbole_llm.data.prompt import with_words

    with tempfile.TemporaryDirectory() as folder:
        settings = {"checkpoint_dir": folder, "train_sample_size": n_prompts, "train_batch_size": 16, "curriculum": "none"}
        config = LLMConfig("LLaRA", "ml-100k", config_dict=settings)
        dataset = create_dataset(config)
        train, *_ = dataset.build()
        loader = TrainPromptDataLoader(config, train)
        loader.set_epoch(0)
        start = time.perf_counter()
        count = sum(len(batch) for batch in loader)
        ours = count / (time.perf_counter() - start)

    rows, titles, tokenizer = loader.dataset, dataset.titles, dataset.prompt_tokenizer.tokenizer
    template, *_ = with_words(config["prompt_templates"], config["prompt_words"])
    keys = [key for batch in list(loader.batches)[: 1000 // 16] for key in batch]
    start = time.perf_counter()
    for key in keys:
        history = ", ".join(titles[i] + " [Slot]" for i in rows.history(key.row))
        candidates = ", ".join(titles[i] + " [Slot]" for i in key.candidates)
        tokenizer(template.replace("{history}", history).replace("{candidates}", candidates).replace("{profile}", ""))
    plain = len(keys) / (time.perf_counter() - start)
    print(f"prompts per second: {ours:,.0f}; string template and tokenizer per prompt: {plain:,.0f}; ratio {ours / plain:.1f}")
    return {"prompts_per_second": ours, "string_template_per_second": plain}


if __name__ == "__main__":
    torch.set_num_threads(1)  # small tensors: two threads that share busy cores are five times slower than one
    main()
