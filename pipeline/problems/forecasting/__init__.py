"""Forecasting: the next values of a series."""
