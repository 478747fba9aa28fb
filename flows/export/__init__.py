"""A next-word model as a folder that needs neither torch nor MLflow."""
