"""What a trained model is worth: measures that return plain values for evals.json, beside honest baselines."""
