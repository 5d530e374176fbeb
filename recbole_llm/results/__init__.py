"""In: a finished run. Out: a result file and its rows, with the hashes of what they were made of."""
