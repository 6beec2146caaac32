"""Tracking: every trial in a journal and in MLflow, and the page that people open there."""
