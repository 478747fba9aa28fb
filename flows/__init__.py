"""Prefect flows: order, caching, retries and limits around pipeline/ and warehouse/."""
