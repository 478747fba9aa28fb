"""Tables named by their content, and snapshots of them."""
