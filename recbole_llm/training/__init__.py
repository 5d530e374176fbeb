"""In: a model and its loaders. Out: fine-tuned weights in a run's folder, which can be resumed; RecBole's own checkpoints as plain data."""
