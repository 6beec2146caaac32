"""Who won: the confirmation on test, the selection, the registry, and the champion as it is served."""
