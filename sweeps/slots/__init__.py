"""Warm slots: the job queue, the Ray Train workers that serve it, and the driver's threads that keep them alive."""
