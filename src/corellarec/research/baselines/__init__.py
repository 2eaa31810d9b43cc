"""The paper's baselines with a language model, measured as a run is."""
