"""The pages: HTML files and pictures of profiles, learning curves and forecasts."""
