"""In: a dataset's atomic files. Out: rows, candidate sets, titles and prompts as token ids, in loaders of training and evaluation."""
