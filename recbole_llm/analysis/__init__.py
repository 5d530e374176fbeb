"""The papers' figures: `python -m recbole_llm.analysis NAME --dataset=NAME [--model=A,B] [--seeds=3] [--key=value ...]`.

Each writes a table (CSV, Markdown), a page with its plots and a JSON to `<result_dir>/analysis/`. What has been trained is found
again: runs are filed under a hash of their settings, reports under a hash of their runs, so that no two overwrite each other.

What a figure costs is the trainings that it needs, which each module says. One training with `--recipe=paper`, five epochs over all
rows of LastFM or MovieLens with a 7B LLM, reads about 1.5e8 tokens: between two and three hours of an H100 at the 18,000 tokens/s of
docs/SCALING.md, which is computed and not measured. With the default LLM and its settings it is minutes on two CPU cores.
"""
