"""Handing over: a trained classifier found by its name, its model card, and predictions at the command line."""
