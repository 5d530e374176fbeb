"""In: a model's scores of rows. Out: ranks, probabilities and metrics, with ties and calibration decided in one place."""
