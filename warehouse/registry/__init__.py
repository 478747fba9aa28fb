"""The model registry, with MLflow behind it; nothing else of Tidemill imports MLflow."""
