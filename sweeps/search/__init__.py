"""The search: one Optuna study per cell behind one Ray Tune run."""
