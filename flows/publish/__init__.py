"""From scores to registered versions and the choice of the champion."""
